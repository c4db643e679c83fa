// Package images makes the images that a cluster without a network needs, from
// programs built here and programs of this machine.
//
// What Kubernetes' tests ask for is read from the tests themselves, and each of
// those names is given to the image here that does the same.
package images
