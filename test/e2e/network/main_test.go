package network

import (
	"fmt"
	"os"
	"testing"

	"github.com/overlay-cni/overlay-cni/test/e2e/internal/cluster"
)

// TestMain makes of this program the first process of a node that a test boots.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == cluster.FirstArgument {
		err := cluster.RunFirst(os.Args[2:])
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
