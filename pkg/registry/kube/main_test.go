package kube

import (
	"flag"
	"os"
	"testing"
)

// The tests have a server each, and wait more than they work, so many run at once,
// however few the cores. m.Run parses the command line later, which overrides this.
func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "10")
	os.Exit(m.Run())
}
