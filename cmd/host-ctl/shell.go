package main

import (
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

func (c *cli) shellCommand() *cobra.Command {
	var user string
	var reconnect time.Duration
	cmd := &cobra.Command{
		Use:   "shell [flags] GUEST",
		Short: "Open a login shell in a guest",
		Long: `Open the login shell of a user in a guest, on a terminal if stdin is one. "~."
after a newline breaks off.`,
		ValidArgsFunction: c.completeGuest,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, _, err := guestArg(args, 0, 0)
			if err != nil {
				return err
			}
			return c.attended(cmd, target, reconnect, func(a *attendance) (*guest.Cmd, error) {
				k := a.guest.Command(a.ctx, "")
				k.Locale = localeOf(os.Environ())
				if k.LoginShell = true; user != "" {
					k.User, k.Group, _ = strings.Cut(user, ":")
				}
				if isTerminal(c.stdin) {
					k.Terminal = a.terminal()
				}
				return k, a.connect(k, true)
			})
		},
	}
	cmd.Flags().StringVarP(&user, "user", "u", "", "user to be, by name or number, with :GROUP if not the user's own")
	cmd.Flags().DurationVar(&reconnect, "reconnect", guest.DefaultReconnect, "keep reconnecting this long after a connection was lost (0 disables)")
	return cmd
}
