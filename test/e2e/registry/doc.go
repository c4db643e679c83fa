// Package registry tests pkg/registry/kube with a real API server: its
// permissions, its way of patching, and what it says to clients whose view is
// outdated. Answers that a real one gives only on a bad day are tested beside
// the package itself.
package registry
