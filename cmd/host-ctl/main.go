package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vsockrpc/vsockrpc/guest"
)

func main() {
	maybeRunLauncher()
	limitMemory()
	os.Exit(run(os.Args[1:]))
}

// run runs host-ctl with arguments and returns its exit code.
func run(args []string) int {
	c := &cli{args: args, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	root := c.rootCommand()
	root.SetArgs(signalArgs(args))
	out := &firstError{w: c.stdout}
	root.SetOut(out) // cobra's: help and versions
	root.SetErr(c.stderr)
	cmd, err := root.ExecuteContextC(context.Background())
	if err == nil {
		err = out.err
	}
	return c.report(cmd, err)
}

// cli is what the verbs share: the standard streams and the global flags.
type cli struct {
	args           []string // of the command line
	stdin          *os.File
	stdout, stderr io.Writer

	verbose        bool
	quiet          bool
	wire           string
	configPath     string
	connectTimeout time.Duration
	keyFlags       trustFlags

	reconnect time.Duration // as in guest.Config
	buffered  int           // as MaxBuffered in guest.Config

	file  *guest.ConfigFile // the configuration file, once read
	local *localAgent       // the embedded agent, once started
}

func (c *cli) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "host-ctl VERB GUEST ...",
		Short: "Work with virtual machines from their host",
		Long: `host-ctl works with virtual machines from their host, through the guest-agent
that runs in each.

GUEST is one of
  3                      the VM with vsock CID 3
  vsock:CID[:PORT]       native vsock; without a port, the agent's
  vsock-mux:/path:PORT   the Unix socket of Firecracker or Cloud Hypervisor
  unix:/path             a Unix socket
  NAME                   a guest of the configuration file
  USER@GUEST             any of these, acting as a user of the guest
  local                  an agent inside host-ctl: needs no VM at all`,
		Version:       buildVersion(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownVerb(cmd, args[0])
			}
			return nil
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			// Verbs with a -q of their own mean this by it too.
			c.quiet = cmd.Flag("quiet").Value.String() == "true"
			return checkDurations(cmd.Flags())
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError{errors.New("no verb")}
		},
	}
	flags := root.PersistentFlags()
	flags.BoolVarP(&c.verbose, "verbose", "v", false, "say on stderr what is tried, and at which address")
	flags.BoolP("quiet", "q", false, "do not say on stderr that a connection was lost, and that it is back")
	flags.StringVar(&c.wire, "wire", string(guest.WireNative), "protocol to speak: native or grpc")
	flags.StringVar(&c.configPath, "config", "", "configuration file (default host-ctl/config.toml below $XDG_CONFIG_HOME)")
	flags.DurationVar(&c.connectTimeout, "connect-timeout", 5*time.Second, "how long to wait for the guest's agent; 0: no limit")
	c.keyFlags.add(flags)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{flagError(err)} })
	addVerbs(root, groupRun, c.execCommand(), c.shellCommand(), c.attachCommand(), c.sessionsCommand(), c.logsCommand(),
		c.psCommand(), c.killCommand(), c.rmCommand())
	addVerbs(root, groupFiles, c.cpCommand(), c.lsCommand(), c.catCommand(), c.writeCommand(), c.editCommand(), c.mkdirCommand(), c.mvCommand(), c.statCommand(),
		c.dfCommand(), c.duCommand(), c.watchCommand())
	addVerbs(root, groupConnect, c.portForwardCommand(), c.proxyCommand(), c.vsockDeviceCommand())
	addVerbs(root, groupGuests, c.listCommand(), c.infoCommand(), c.waitCommand(), c.clockCommand(), c.doctorCommand())
	addVerbs(root, groupTrust, c.keygenCommand(), c.enrollCommand(), c.canICommand())
	root.AddCommand(c.versionCommand())
	setHelp(root)
	addExamples(root)
	root.RegisterFlagCompletionFunc("wire", cobra.FixedCompletions([]string{string(guest.WireNative), string(guest.WireGRPC)}, cobra.ShellCompDirectiveNoFileComp))
	return root
}

// config returns the configuration for guest.Dial.
func (c *cli) config() *guest.Config {
	return &guest.Config{Wire: guest.Wire(c.wire), File: c.file, Reconnect: c.reconnect, MaxBuffered: c.buffered, Logger: c.logger()}
}

// logger returns what -v asks for: a logger to stderr, or nil.
func (c *cli) logger() *slog.Logger {
	if !c.verbose {
		return nil
	}
	return slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		switch {
		case len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey):
			return slog.Attr{}
		case a.Value.Kind() == slog.KindAny || a.Value.Kind() == slog.KindString:
			return slog.String(a.Key, visible(a.Value.String()))
		}
		return a
	}}))
}

// readFile reads the configuration file, if a flag or a name needs it.
func (c *cli) readFile() error {
	if c.file != nil {
		return nil
	}
	file, err := guest.ReadConfigFile(c.configPath)
	if err != nil {
		return configError{err}
	}
	c.file = file
	return nil
}

// dial connects to a guest within --connect-timeout. The caller closes it.
func (c *cli) dial(ctx context.Context, target string) (*guest.Guest, error) {
	ctx, cancel := withLimit(ctx, c.connectTimeout)
	defer cancel()
	if c.configPath != "" {
		if err := c.readFile(); err != nil {
			return nil, err
		}
	}
	cfg := c.config()
	if user, rest := guest.SplitUser(target); rest == "local" {
		cfg.User = user
		if c.local == nil {
			unlimitMemory()
			local, err := startLocal(c.logger())
			if err != nil {
				return nil, err
			}
			c.local = local
		}
		cfg.Dialer = c.local.dial
	} else {
		trust, err := c.keyFlags.trust()
		if err != nil {
			return nil, err
		}
		cfg.Trust = trust
	}
	c.sayLosses(target, cfg)
	return guest.Dial(ctx, target, cfg)
}

// withLimit returns a context that ends after a time, or has no such limit if that is 0.
func withLimit(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if limit == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, limit)
}

// checkDurations refuses times that are less than none. What 0 means is the same for
// all flags: no limit of a wait, and of a time to try or to stay, none at all.
func checkDurations(flags *pflag.FlagSet) (err error) {
	flags.Visit(func(f *pflag.Flag) {
		if d, parseErr := time.ParseDuration(f.Value.String()); f.Value.Type() == "duration" && parseErr == nil && d < 0 {
			err = usageError{fmt.Errorf("--%s=%s: want 0 or more", f.Name, f.Value)}
		}
	})
	return err
}

// close ends what dial started.
func (c *cli) close(g *guest.Guest) {
	g.Close()
	if c.local != nil {
		c.local.close()
		c.local = nil
	}
}

// withGuest calls f with a guest of a verb that one call or two are enough for.
func (c *cli) withGuest(cmd *cobra.Command, target string, f func(ctx context.Context, g *guest.Guest) error) error {
	ctx, stop := interruptible(cmd.Context())
	defer stop()
	g, err := c.dial(ctx, target)
	if err == nil {
		defer c.close(g)
		err = f(ctx, g)
	}
	if cause, ok := errors.AsType[interrupted](context.Cause(ctx)); ok && err != nil {
		return exitCode(exitSignal + cause.signal)
	}
	return err
}

// guestEnv is the environment variable with the guest of verbs that got none.
const guestEnv = "HOST_CTL_GUEST"

// guestArg splits GUEST off the arguments of a verb that wants min to max more;
// max < 0 means any number. When HOST_CTL_GUEST is set, GUEST is that if the first
// argument is a path, or there are only as many arguments as the verb needs.
func guestArg(args []string, min, max int) (string, []string, error) {
	if preset := os.Getenv(guestEnv); preset != "" && len(args) >= min &&
		(len(args) == min || strings.HasPrefix(args[0], "/") || strings.HasPrefix(args[0], ".") || strings.HasPrefix(args[0], "~")) {
		if max >= 0 && len(args) > max {
			return "", nil, usageError{fmt.Errorf("too many arguments: %s", strings.Join(args[max:], " "))}
		}
		return preset, args, nil
	}
	switch {
	case len(args) == 0:
		return "", nil, usageError{fmt.Errorf("no GUEST, and %s is not set", guestEnv)}
	case len(args)-1 < min:
		return "", nil, usageError{errors.New("too few arguments")}
	case max >= 0 && len(args)-1 > max:
		return "", nil, usageError{fmt.Errorf("too many arguments: %s", strings.Join(args[max+1:], " "))}
	}
	return args[0], args[1:], nil
}
