//go:build linux

package process

import (
	"fmt"
	"os"
	"strings"
)

// helperEnv names the role that the test binary plays when a test starts it as
// a session's program.
const helperEnv = "PROCESS_TEST_HELPER"

// runHelper does not return.
func runHelper(name string, args []string) {
	switch name {
	case "args":
		// The arguments and the rest of the environment, as Go writes bytes.
		fmt.Printf("%q\n", args)
		for _, e := range os.Environ() {
			if !strings.HasPrefix(e, helperEnv+"=") {
				fmt.Printf("%q\n", e)
			}
		}
	default:
		fmt.Fprintf(os.Stderr, "no helper %q\n", name)
		os.Exit(99)
	}
	os.Exit(0)
}
