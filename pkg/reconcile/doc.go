// Package reconcile runs one function again and again: when something may have
// changed, when it failed, and every so often in any case.
//
// Invariant: a trigger says only "look again". It carries nothing, so one that
// is lost, doubled or late makes no difference but in time, and the function
// never runs twice at once.
package reconcile
