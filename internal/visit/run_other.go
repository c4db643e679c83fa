//go:build !amd64 && !arm64

package visit

const supported = false

func run(*call, uintptr) {}
