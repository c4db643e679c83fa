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
		os.Exit(first(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func first(args []string) int {
	if err := cluster.RunFirst(args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
