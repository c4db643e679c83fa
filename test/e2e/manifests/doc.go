// Package manifests renders what people apply to a cluster, as kubectl and helm
// do, so that tests can compare: in a module of its own, for the product needs
// neither of them.
package manifests
