package apiserver_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/test/e2e/internal/apiserver"
	"github.com/overlay-cni/overlay-cni/test/e2e/internal/apiserver/apiservertest"
)

// holdEnv makes this program start servers, print the folder of their files, and
// wait until it is killed.
const holdEnv = "APISERVER_HOLD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(holdEnv); dir != "" {
		os.Exit(hold(dir))
	}
	os.Exit(sandboxtest.Main(m))
}

func hold(dir string) int {
	ctx, cancel := context.WithTimeout(context.Background(), apiservertest.StartTime)
	defer cancel()
	if _, err := apiserver.Start(ctx, apiserver.Options{Dir: dir}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintln(os.Stdout, "ready")
	select {}
}
