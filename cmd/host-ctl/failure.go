package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

// Exit codes of host-ctl's own; docs/host-ctl.md has them all.
const (
	exitTimeout       = 124 // exec's --timeout, or wait's
	exitFailure       = 125 // any failure of host-ctl itself
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignal        = 128 // plus the number of the signal
)

// exitCode is an error that says nothing: the exit code tells it all.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// usageError is a wrong use of the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// timeoutError is a time limit of the user's that was over.
type timeoutError struct{ error }

func (e timeoutError) Unwrap() error { return e.error }

// report tells of err and returns the exit code for it. The texts may come from
// a guest.
func (c *cli) report(cmd *cobra.Command, err error) int {
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code)
	}
	if err == nil {
		return 0
	}
	usage, isUsage := errors.AsType[usageError](err)
	if isUsage && !c.asJSON(cmd) {
		fmt.Fprintf(c.stderr, "host-ctl: %s\nUsage: %s\nSee %s --help.\n", visible(usage.Error()), cmd.UseLine(), cmd.CommandPath())
		return exitFailure
	}
	ge, _ := errors.AsType[*guest.Error](err)
	if c.asJSON(cmd) {
		c.reportJSON(err)
	} else {
		remedy := guest.Remedy(err)
		text := err.Error()
		if remedy != "" {
			// For other clients than this one, what happened says it too.
			text = strings.TrimSuffix(text, ": "+remedy)
		}
		fmt.Fprintf(c.stderr, "host-ctl: %s\n", visible(text))
		if remedy != "" && ge != nil {
			remedy = c.remedyFor(ge.Guest, remedy)
		}
		if remedy != "" {
			fmt.Fprintf(c.stderr, "host-ctl: hint: %s\n", visible(remedy))
		}
	}
	return failureCode(err, ge)
}

// remedyFor completes a remedy of an agent's, which does not know how its guest is
// called here, nor where this user's key is: the command that it names can be run
// as it stands.
func (c *cli) remedyFor(target, remedy string) string {
	if target != "" {
		remedy = strings.ReplaceAll(remedy, " GUEST", " "+target)
	}
	if path, err := c.keyFlags.identityPath(); err == nil {
		remedy = strings.ReplaceAll(remedy, " id_ed25519.pub ", " "+path+".pub ")
	}
	return remedy
}

func failureCode(err error, ge *guest.Error) int {
	if _, ok := errors.AsType[timeoutError](err); ok {
		return exitTimeout
	}
	if _, ok := errors.AsType[socketError](err); ok || ge == nil {
		return exitFailure
	}
	switch ge.Reason {
	case "not-found":
		return exitNotFound
	case "not-executable", "wrong-architecture", "no-interpreter", "bad-format":
		return exitNotExecutable
	}
	return exitFailure
}

// failure is an error as -o json has it on stderr.
type failure struct {
	Error   string `json:"error"`
	Guest   string `json:"guest,omitempty"`
	Op      string `json:"op,omitempty"`
	Code    string `json:"code,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Remedy  string `json:"remedy,omitempty"`
	Path    string `json:"path,omitempty"`
	Errno   uint32 `json:"errno,omitempty"`
	Message string `json:"message,omitempty"`
}

// Words of host-ctl's own failures, beside those of package guest.
const (
	reasonUsage     = "usage"      // a wrong use of the command line
	reasonBadConfig = "bad-config" // the configuration file cannot be read
)

func (c *cli) reportJSON(err error) {
	f := failure{Error: err.Error(), Reason: reasonUsage}
	if _, ok := errors.AsType[usageError](err); !ok {
		e := guest.FromError(err)
		f.Guest, f.Op, f.Code, f.Reason, f.Remedy = e.Guest, e.Op, e.Code.String(), e.Reason, e.Remedy
		f.Path, f.Errno, f.Message = string(e.Path), e.Errno, e.Message()
	}
	if _, ok := errors.AsType[configError](err); ok {
		f.Reason = reasonBadConfig
	}
	if _, ok := errors.AsType[timeoutError](err); ok {
		f.Reason = guest.ReasonTimeout
	}
	writeJSON(c.stderr, f)
}

// configError is a configuration file that cannot be read.
type configError struct{ error }

func (e configError) Unwrap() error { return e.error }

// asJSON reports whether the verb was asked for JSON. When its flags could not be
// parsed, what stands on the command line counts.
func (c *cli) asJSON(cmd *cobra.Command) bool {
	if cmd == nil || cmd.Flags().Lookup("output") == nil {
		return false
	}
	if cmd.Flags().Changed("output") {
		return cmd.Flag("output").Value.String() == "json"
	}
	for i, arg := range c.args {
		switch arg {
		case "--":
			return false
		case "-ojson", "-o=json", "--output=json":
			return true
		case "-o", "--output":
			return i+1 < len(c.args) && c.args[i+1] == "json"
		}
	}
	return false
}

// interrupted is the cause of a context that a signal ended.
type interrupted struct{ signal int }

func (interrupted) Error() string { return "interrupted" }
