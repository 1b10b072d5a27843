package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

func main() {
	if isChild() {
		os.Exit(childMain())
	}
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			os.Exit(2)
		}
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the orchestrator's flags.
type options struct {
	quick          bool // each scenario once in a round
	rounds         int
	warmup, window time.Duration
	only, peers    *regexp.Regexp
	profile        string
	progress       io.Writer
}

// run measures and writes the report to out, or to the file of -o.
func run(args []string, out, progress io.Writer) error {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(progress)
	var (
		quick   = fs.Bool("quick", false, "a smoke run of less than a minute: 2 rounds, short windows; its figures mean little")
		rounds  = fs.Int("rounds", 0, "rounds (default 5, with -quick 2)")
		window  = fs.Duration("window", 0, "time measured per peer, scenario and round (default 280ms, with -quick 80ms)")
		only    = fs.String("only", "", "only scenarios whose name matches `REGEXP`")
		peers   = fs.String("peers", "", "only peers whose whole name matches `REGEXP`")
		output  = fs.String("o", "", "write the report to `FILE` instead of stdout")
		check   = fs.Bool("check", false, "fail if a must is missed")
		profile = fs.String("profile", "", "write CPU profiles of both sides to `DIR` (slower; the last round's stay)")
		limit   = fs.Duration("timeout", 15*time.Minute, "give up after this time")
	)
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	o := options{rounds: 5, warmup: 80 * time.Millisecond, window: 280 * time.Millisecond, profile: *profile, progress: progress}
	if *quick {
		o.quick, o.rounds, o.warmup, o.window = true, 2, 20*time.Millisecond, 80*time.Millisecond
	}
	if *rounds > 0 {
		o.rounds = *rounds
	}
	if *window > 0 {
		o.window = *window
	}
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	if o.peers, err = regexp.Compile("^(?:" + *peers + ")$"); err != nil {
		return fmt.Errorf("-peers: %w", err)
	}
	if *peers == "" {
		o.peers = regexp.MustCompile("")
	}
	if *profile != "" {
		if err := os.MkdirAll(*profile, 0o755); err != nil {
			return err
		}
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, *limit, fmt.Errorf("-timeout %v has passed", *limit))
	defer cancel()

	start := time.Now()
	facts := machineFacts()
	results, err := measureAll(ctx, o)
	if err != nil {
		return err
	}
	rep := report{facts: facts, args: args, options: o, took: time.Since(start), results: results}
	if *output != "" {
		f, err := os.Create(*output)
		if err != nil {
			return err
		}
		rep.write(f)
		if err := f.Close(); err != nil {
			return err
		}
	} else {
		rep.write(out)
	}
	if failed := results.errors(); len(failed) > 0 {
		return fmt.Errorf("%d measurements failed, first: %w", len(failed), failed[0])
	}
	if missed := rep.missed(); *check && missed > 0 {
		return fmt.Errorf("%d musts are missed", missed)
	}
	return nil
}
