package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestExamples: every verb has an example, and its verb and flags are ones that there
// are.
func TestExamples(t *testing.T) {
	c := &cli{stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}
	root := c.rootCommand()
	root.InitDefaultHelpCmd()
	used := make(map[string]bool)
	for _, v := range root.Commands() {
		if v.Name() == "completion" {
			continue // cobra's, with instructions of its own
		}
		if v.Example == "" {
			t.Errorf("%s has no example", v.Name())
		}
		used[v.Name()] = true
		for line := range strings.Lines(v.Example) {
			if !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: an example is not indented: %q", v.Name(), line)
			}
		}
		for _, args := range hostCtlCommands(t, v.Example) {
			if err := parses(args); err != nil {
				t.Errorf("%s: host-ctl %s: %v", v.Name(), strings.Join(args, " "), err)
			}
		}
	}
	for name := range examples {
		if !used[name] {
			t.Errorf("an example of %s, which is no verb", name)
		}
	}
}

// parses reports what is wrong with the verb or the flags of a command line.
func parses(args []string) error {
	c := &cli{args: args, stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}
	root := c.rootCommand()
	root.InitDefaultHelpCmd()
	verb, rest, err := root.Find(signalArgs(args))
	if err != nil {
		return err
	}
	if verb == root && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		return unknownVerb(root, rest[0])
	}
	ran := false
	verb.RunE = func(*cobra.Command, []string) error { ran = true; return nil }
	verb.PersistentPreRunE = nil
	root.SetArgs(signalArgs(args))
	root.SetOut(c.stdout)
	root.SetErr(c.stderr)
	if err := root.Execute(); err != nil {
		return err
	}
	_ = ran // --help and --version end before
	return nil
}
