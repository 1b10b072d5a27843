//go:build linux

package agent

import (
	"os"
	"testing"

	"github.com/vsockrpc/vsockrpc/agent/process"
)

// TestMain lets this test's binary be a launcher, as an agent's is.
func TestMain(m *testing.M) {
	process.MaybeRunLauncher()
	os.Exit(m.Run())
}
