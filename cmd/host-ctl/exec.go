package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

// execFlags are the flags of exec.
type execFlags struct {
	stdin, tty, detach bool
	remoteShell        bool
	user, dir          string
	env, envFiles      []string
	name               string
	timeout            time.Duration
	reconnect          time.Duration
	grace              time.Duration
	ring               sizeFlag
	dropOldest         bool
	killRemaining      bool
	block              bool
	keep               time.Duration
	limits             limitFlags
}

// maxKeep is how long an agent keeps results at most.
const maxKeep = 24 * time.Hour

func (c *cli) execCommand() *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use:   "exec [flags] GUEST [--] COMMAND [ARG...]",
		Short: "Run a command in a guest",
		Long: `Run a command in a guest. Its output is host-ctl's output, byte for byte, and its
exit code is host-ctl's: 128+N if signal N ended it, 124 if --timeout did, 126 if
it could not be executed, 127 if it was not found, 125 if host-ctl itself failed.

Flags stop at GUEST. If the connection is lost, the command goes on, and host-ctl
attaches to it again: no output is lost or repeated. Ctrl-C and SIGTERM go to the
command and its process group; a second one breaks off, and the guest ends the
command. With -t, "~." after a newline breaks off.

What the command leaves running when it exits goes on, as after ssh, unless
--kill-remaining is given. A command that the guest ends, for --timeout or since
host-ctl is gone, ends with everything that it has started.`,
		Example: `  host-ctl exec 3 -- uname -a
  tar c . | host-ctl exec -i web tar x -C /srv
  rsync -a -e 'host-ctl exec --rsh' web:/var/log/ logs/
  host-ctl exec -it web top
  host-ctl exec -d --name build web make -C /src
  host-ctl exec -dit --name work web bash && host-ctl attach web work`,
		ValidArgsFunction: c.completeGuest,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.exec(cmd, &f, args)
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.BoolVarP(&f.stdin, "interactive", "i", false, "pass stdin to the command")
	flags.BoolVarP(&f.tty, "tty", "t", false, "run the command on a terminal")
	flags.BoolVarP(&f.detach, "detach", "d", false, "leave the command running, and print its session's id; with -i its stdin stays open for attach")
	flags.StringVarP(&f.user, "user", "u", "", "user to run as, by name or number, with :GROUP if not the user's own")
	flags.BoolVar(&f.remoteShell, "rsh", false, "be the remote shell of rsync or git: -i, and COMMAND is a line for sh")
	flags.StringVarP(&f.user, "login", "l", "", "as -u, for --rsh")
	flags.MarkHidden("login")
	flags.StringVarP(&f.dir, "workdir", "w", "", "working directory (default the user's home)")
	flags.StringArrayVarP(&f.env, "env", "e", nil, "set a variable: NAME=VALUE, or NAME for this environment's value")
	flags.StringArrayVar(&f.envFiles, "env-file", nil, "set the variables of a file, one NAME=VALUE a line")
	flags.StringVar(&f.name, "name", "", "name of the session, beside its id")
	flags.DurationVar(&f.timeout, "timeout", 0, "have the guest end the command after so long")
	flags.DurationVar(&f.reconnect, "reconnect", guest.DefaultReconnect, "keep reconnecting this long after a connection was lost (0 disables)")
	flags.DurationVar(&f.grace, "grace", 0, "how long the command outlives a lost connection (default the agent's, 5s)")
	flags.Var(&f.ring, "ring", "how much output the guest keeps that was not read yet (default the agent's, 1M)")
	flags.BoolVar(&f.dropOldest, "drop-oldest", false, "when that is full, drop the oldest output rather than stop the command (the default with -d)")
	flags.BoolVar(&f.block, "block", false, "with -d: when that is full, stop the command until its output is read")
	flags.DurationVar(&f.keep, "keep", 0, "how long to keep the result and the last output, read or not, 24h at most (default 5m, until they are read)")
	flags.BoolVar(&f.killRemaining, "kill-remaining", false, "when the command exits, end everything that it has left running")
	f.limits.add(flags)
	return cmd
}

func (c *cli) exec(cmd *cobra.Command, f *execFlags, args []string) error {
	target, argv, err := execArgs(args, cmd.ArgsLenAtDash())
	if err != nil {
		return err
	}
	if f.remoteShell {
		f.stdin = true
		// As ssh does, from which those that call it expect it.
		argv = []string{"sh", "-c", strings.Join(argv, " ")}
	}
	if f.block && f.dropOldest {
		return usageError{errors.New("--block does not go with --drop-oldest")}
	}
	if f.keep > maxKeep {
		return usageError{fmt.Errorf("--keep %v: the guest keeps results for %v at most", f.keep, maxKeep)}
	}
	if f.detach && f.remoteShell {
		return usageError{errors.New("-d does not go with --rsh")}
	}
	if _, name := guest.SplitUser(target); f.detach && name == "local" {
		return usageError{errors.New("-d: nothing of the guest \"local\" outlives host-ctl")}
	}
	env, err := f.environment()
	if err != nil {
		return err
	}
	limits, err := f.limits.resourceLimits()
	if err != nil {
		return err
	}
	err = c.attended(cmd, target, f.reconnect, func(a *attendance) (*guest.Cmd, error) {
		k := a.guest.Command(a.ctx, argv[0], argv[1:]...)
		if f.user != "" {
			k.User, k.Group, _ = strings.Cut(f.user, ":")
		}
		k.Dir, k.ExtraEnv, k.Name, k.Detach = f.dir, env, f.name, f.detach
		k.Timeout, k.OwnerGrace, k.Limits = f.timeout, f.grace, limits
		k.RingBytes, k.DropOldest, k.KillRemaining = uint64(f.ring), f.dropOldest || f.detach && !f.block, f.killRemaining
		k.Retention, k.KeepResult = f.keep, f.keep > 0
		a.tellGaps(k)
		if f.tty {
			k.Terminal, k.Locale = a.terminal(), localeOf(os.Environ())
		}
		if k.OpenStdin = f.stdin; f.detach {
			return k, nil
		}
		return k, a.connect(k, f.stdin)
	})
	if e, ok := errors.AsType[*guest.Error](err); ok && e.Reason == "not-found" && cmd.ArgsLenAtDash() < 0 {
		if hint := commandHint(target, argv); hint != "" {
			hinted := *e
			hinted.Remedy = hint
			return &hinted
		}
	}
	return err
}

// execArgs splits the arguments of exec: flags stop at GUEST, and one "--" after
// it is dropped. When "--" comes first, GUEST is that of the environment.
func execArgs(args []string, atDash int) (string, []string, error) {
	var target string
	switch {
	case atDash == 0:
		if target = os.Getenv(guestEnv); target == "" {
			return "", nil, usageError{fmt.Errorf("no GUEST before \"--\", and %s is not set", guestEnv)}
		}
	case len(args) == 0:
		return "", nil, usageError{errors.New("no GUEST and no command")}
	default:
		target, args = args[0], args[1:]
		if len(args) > 0 && args[0] == "--" {
			args = args[1:]
		}
	}
	if len(args) == 0 {
		return "", nil, usageError{errors.New("no command")}
	}
	return target, args, nil
}

// commandHint says what was probably meant by a command that was not found.
func commandHint(target string, argv []string) string {
	switch {
	case len(argv) > 1 && argv[0] == "--":
		return fmt.Sprintf("one -- is enough: host-ctl exec %s -- %s", target, strings.Join(argv[1:], " "))
	case len(argv) > 1 && strings.HasPrefix(argv[0], "-"):
		return fmt.Sprintf("flags go before the guest: host-ctl exec %s %s %s", argv[0], target, strings.Join(argv[1:], " "))
	case len(argv) == 1 && strings.ContainsAny(argv[0], " \t"):
		return fmt.Sprintf("a command line is for a shell: host-ctl exec %s -- sh -c %s", target, shellQuote(argv[0]))
	}
	return ""
}

// shellQuote quotes s for a shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// parseEnvFile returns the assignments of a file with one NAME=VALUE, or NAME, a
// line. Blank lines and comments are passed over, as are blanks before a name, the
// word export, and the mark that some editors put at the beginning of a file. The
// value is all that follows, quotes too.
func parseEnvFile(text string) ([]string, error) {
	var env []string
	for n, line := range strings.Split(strings.TrimPrefix(text, "\ufeff"), "\n") {
		line = strings.TrimLeft(strings.TrimSuffix(line, "\r"), " \t")
		if rest, ok := strings.CutPrefix(line, "export"); ok && strings.TrimLeft(rest, " \t") != rest {
			line = strings.TrimLeft(rest, " \t")
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		pair, ok := assignment(line)
		if name, _, _ := strings.Cut(line, "="); !ok || strings.ContainsAny(name, " \t") {
			return nil, fmt.Errorf("line %d: want NAME=VALUE", n+1)
		}
		if pair != "" {
			env = append(env, pair)
		}
	}
	return env, nil
}

// environment returns the variables that the flags set, files first.
func (f *execFlags) environment() ([]string, error) {
	var env []string
	for _, path := range f.envFiles {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		of, err := parseEnvFile(string(data))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		env = append(env, of...)
	}
	for _, s := range f.env {
		pair, ok := assignment(s)
		if !ok {
			return nil, usageError{fmt.Errorf("-e %q: want NAME=VALUE or NAME", s)}
		}
		if pair != "" {
			env = append(env, pair)
		}
	}
	return env, nil
}

// localeOf returns what of an environment says which language and character set its
// user reads.
func localeOf(env []string) []string {
	var locale []string
	for _, e := range env {
		const most = 32 // as agents take
		if name, value, _ := strings.Cut(e, "="); value != "" && (name == "LANG" || strings.HasPrefix(name, "LC_")) && len(locale) < most {
			locale = append(locale, e)
		}
	}
	return locale
}

// assignment completes a lone NAME from this environment; it is empty if that
// has no such variable.
func assignment(s string) (string, bool) {
	name, _, ok := strings.Cut(s, "=")
	if name == "" {
		return "", false
	}
	if ok {
		return s, true
	}
	value, set := os.LookupEnv(name)
	if !set {
		return "", true
	}
	return name + "=" + value, true
}
