// Package reconcile runs one function again and again: after a trigger, after a
// failure, and after a resync interval.
//
// Invariant: a trigger carries no payload. It says only "look again", so a lost,
// doubled or late trigger costs time and nothing else. The function never runs
// twice at once.
package reconcile
