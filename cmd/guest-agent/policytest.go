//go:build linux

package main

import (
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/vsockrpc/vsockrpc/agent/policy"
	"github.com/vsockrpc/vsockrpc/internal/trusted"
	"github.com/vsockrpc/vsockrpc/keys"
)

const policyUsage = `usage: guest-agent policy test FILE [--key NAME] [--peer WORD] [--role ROLE] CALL...

Say what the policy of FILE makes of a call, and check FILE. The exit code is 0 if
the call is allowed, 1 if it is refused, 2 if FILE or the call is wrong. Without a
call, FILE alone is checked. A call is
` + policy.CallUsage + "\n"

// runPolicy is "guest-agent policy".
func runPolicy(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && slices.ContainsFunc(args[:min(len(args), 2)], func(a string) bool { return a == "-h" || a == "-help" || a == "--help" }) {
		fmt.Fprint(stdout, policyUsage)
		return exitOK
	}
	if len(args) < 2 || args[0] != "test" {
		fmt.Fprint(stderr, policyUsage)
		return exitUsage
	}
	who := policy.Caller{}
	fs := flag.NewFlagSet("policy test", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	add := func(to *[]string) func(string) error {
		return func(v string) error {
			*to = append(*to, v)
			return nil
		}
	}
	fs.Func("key", "", func(v string) error {
		// Any key that is known has a fingerprint.
		who.Name, who.Fingerprint = v, "key "+v
		if strings.HasPrefix(v, "SHA256:") {
			who.Name, who.Fingerprint = "", v
		}
		return nil
	})
	fs.Func("peer", "", add(&who.Peers))
	fs.Func("role", "", add(&who.Roles))
	fail := func(err error) int {
		fmt.Fprintf(stderr, "guest-agent: %v\n", err)
		return exitUsage
	}
	// Flags stand before FILE, or after it.
	err := fs.Parse(args[1:])
	path := fs.Arg(0)
	if err == nil && path != "" {
		err = fs.Parse(fs.Args()[1:])
	}
	if err != nil || path == "" {
		fmt.Fprint(stderr, policyUsage)
		return exitUsage
	}
	data, err := trusted.ReadNamed(path, keys.MaxFile, 0)
	if err != nil {
		return fail(err)
	}
	p, err := policy.Parse(data)
	if err != nil {
		return fail(fmt.Errorf("%s: %w", path, err))
	}
	if fs.NArg() == 0 {
		fmt.Fprintf(stdout, "%s is a policy with %d roles\n", path, len(p.Roles))
		return exitOK
	}
	call, err := policy.ParseCall(fs.Args())
	if err != nil {
		return fail(err)
	}
	// On whatever machine: nothing is known of the guest's users and links.
	d := p.Decide(who, call, policy.World{})
	if read := policy.Describe(call, policy.World{}); read != "" {
		fmt.Fprintf(stdout, "read as: %s\n", read)
	}
	if d.Allowed && !d.WouldRefuse {
		fmt.Fprintf(stdout, "allowed by %s\n", d.Rule)
		return exitOK
	}
	fmt.Fprintf(stdout, "refused (rule %s): %s\nneeded: %s\n", d.Rule, d.Text, d.Remedy)
	return exitFailure
}
