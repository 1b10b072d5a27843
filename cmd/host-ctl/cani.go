package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/agent/policy"
	"github.com/vsockrpc/vsockrpc/guest"
)

// exitRefused is can-i's exit code for no.
const exitRefused = 1

func (c *cli) canICommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "can-i [flags] GUEST CALL...",
		Short: "Ask a guest whether its policy lets you do something",
		Long: `Ask a guest whether its policy lets you do something, by which rule, and what would
be needed. Nothing is done. The exit code is 0 for yes, 1 for no. CALL is
` + policy.CallUsage,
		ValidArgsFunction: c.completeGuest,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			target, rest, err := guestArg(args, 1, -1)
			if err != nil {
				return err
			}
			call, err := policy.ParseCall(rest)
			if err != nil {
				return usageError{err}
			}
			return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
				r, err := g.Explain(ctx, call.Request())
				if err != nil {
					return err
				}
				if format == "json" {
					err = writeJSON(c.stdout, explanation{r.GetAllowed(), r.GetRule(), r.GetText(), r.GetRemedy(), r.GetRoles()})
				} else if r.GetAllowed() {
					err = printVisible(c.stdout, "yes: %s\n", visibleLine(r.GetText()))
				} else {
					err = printVisible(c.stdout, "no: %s\nneeded: %s\n", visibleLine(r.GetText()), visibleLine(r.GetRemedy()))
				}
				if err == nil && !r.GetAllowed() {
					err = exitCode(exitRefused)
				}
				return err
			})
		},
	}
	outputFlag(cmd, &format)
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// explanation is the answer as -o json has it. Fields are only ever added.
type explanation struct {
	Allowed bool     `json:"allowed"`
	Rule    string   `json:"rule"`
	Text    string   `json:"text"`
	Remedy  string   `json:"remedy,omitempty"`
	Roles   []string `json:"roles,omitempty"`
}

// accessLine describes who the caller is to a guest, for people.
func accessLine(level, key string, roles []string, policyPath string, auditOnly bool) string {
	s := "level " + level
	if key != "" {
		s += ", key " + key
	}
	if len(roles) > 0 {
		s += ", roles " + strings.Join(roles, " ")
	}
	if policyPath != "" {
		s += fmt.Sprintf(", policy %s", policyPath)
		if auditOnly {
			s += " (audit only: refuses nothing)"
		}
	}
	return s
}
