package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

// timeoutSlack is how long after exec's --timeout the guest has to end the
// command before host-ctl gives up on it.
const timeoutSlack = 5 * time.Second

// attendance is a command in the guest with this process's streams, terminal
// and signals connected to it.
type attendance struct {
	cli    *cli
	ctx    context.Context // ends with a signal that comes before there is a command
	target string
	guest  *guest.Guest
	cmd    *guest.Cmd
	stdin  io.WriteCloser // nil: not wanted
	tty    *terminal      // nil: the command has none, or this process
	keep   bool           // breaking off leaves the session running
	aside  bool           // signals are not for the command: the first breaks off

	gaps *gaps // nil: none is told of

	breakOnce sync.Once
	broken    exitCode              // 0: not broken off
	failed    atomic.Pointer[error] // of a write of the command's output
	escaped   atomic.Bool           // broken off by "~."
	col       atomic.Bool           // the last line on stdout has not ended
	// ours is closed when signals are the command's. Until then none of its output is
	// shown: who sees it may send one.
	ours chan struct{}
}

// attended runs the command that build makes, and returns its exit code as an
// error.
func (c *cli) attended(cmd *cobra.Command, target string, reconnect time.Duration, build func(*attendance) (*guest.Cmd, error)) (err error) {
	// EPIPE is seen where it happens, so that the guest's command ends too. The signal
	// is not ignored: what "local" starts would ignore it too.
	pipes := make(chan os.Signal, 1)
	signal.Notify(pipes, syscall.SIGPIPE)
	defer signal.Stop(pipes)
	signals := make(chan os.Signal, 8)
	notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)

	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	early := watchEarly(signals, func(sig os.Signal) { cancel(interrupted{signalNumber(sig)}) })
	a := &attendance{cli: c, ctx: ctx, target: target, ours: make(chan struct{})}
	fail := func(err error) error {
		sig := early.end()
		close(a.ours)
		if sig != nil {
			return exitCode(exitSignal + signalNumber(sig))
		}
		return err
	}

	c.reconnect = reconnect
	if reconnect <= 0 {
		c.reconnect = -1
	}
	if a.guest, err = c.dial(ctx, target); err != nil {
		return fail(err)
	}
	defer c.close(a.guest)
	if a.cmd, err = build(a); err != nil {
		return fail(err)
	}
	if a.cmd.Terminal != nil && a.stdin != nil {
		if a.tty, err = makeRaw(c.stdin); err != nil {
			return err
		}
		defer a.tty.restore()
		if a.tty != nil && isTerminal(c.stderr) {
			c.stderr = &freshLines{w: c.stderr, tty: a.tty, col: &a.col}
		}
	}
	if err := a.cmd.Start(); err != nil {
		return fail(err)
	}
	first := early.end()
	if w := a.cmd.Process.SessionInfo().GetWarning(); w != "" && !a.keep {
		fmt.Fprintf(c.stderr, "host-ctl: %s\n", visibleLine(w))
	}
	if a.cmd.Detach {
		fmt.Fprintln(c.stdout, a.cmd.ID)
		return nil
	}
	stop := make(chan struct{})
	defer close(stop)
	go a.forward(signals, stop)
	close(a.ours)
	if first != nil {
		// As if it had come before: ctx is over, and the command too unless it is kept.
		a.breakOff(exitCode(exitSignal + signalNumber(first)))
	}
	if a.stdin != nil {
		go a.feed()
	}
	if a.cmd.Timeout > 0 {
		guard := time.AfterFunc(a.cmd.Timeout+timeoutSlack, func() { a.breakOff(exitTimeout) })
		defer guard.Stop()
	}
	return a.outcome(a.cmd.Wait())
}

// earlySignal is a signal that comes while a command is being started. It is never
// lost: it is still in the channel, or end returns it.
type earlySignal struct {
	came  chan os.Signal
	ended chan struct{}
}

// watchEarly waits for a signal, for which it calls came, until end is called.
func watchEarly(signals <-chan os.Signal, came func(os.Signal)) *earlySignal {
	e := &earlySignal{make(chan os.Signal, 1), make(chan struct{})}
	go func() {
		defer close(e.came)
		select {
		case sig := <-signals:
			e.came <- sig
			came(sig)
		case <-e.ended:
		}
	}()
	return e
}

// end ends the watch, and returns the signal that has come, or nil. It is called
// once.
func (e *earlySignal) end() os.Signal {
	close(e.ended)
	return <-e.came
}

// outcome turns what Wait returned into an exit code or an error.
func (a *attendance) outcome(err error) error {
	// A break-off that is under way has set its code before.
	a.breakOnce.Do(func() {})
	a.tty.restore()
	a.gaps.flush()
	if failed := a.failed.Load(); failed != nil {
		if errors.Is(*failed, syscall.EPIPE) {
			return exitCode(exitSignal + 13)
		}
		return fmt.Errorf("the output cannot be written: %w", *failed)
	}
	if a.broken != 0 {
		a.farewell()
		return a.broken
	}
	exit, ok := errors.AsType[*guest.ExitError](err)
	switch {
	case !ok:
		return err
	case exit.TimedOut():
		return timeoutError{errors.New("the command's time was over: the guest has ended it")}
	case exit.OOMKilled():
		fmt.Fprintln(a.cli.stderr, "host-ctl: the guest killed the command: out of memory")
	case exit.Reason() != "" && !exit.Exited():
		fmt.Fprintf(a.cli.stderr, "host-ctl: the guest ended the command: %s\n", visible(exit.Reason()))
	}
	if exit.Exited() {
		return exitCode(exit.ExitCode())
	}
	return exitCode(exitSignal + int(exit.Signal()))
}

// farewell says how to come back, after the user has typed "~.".
func (a *attendance) farewell() {
	switch {
	case !a.escaped.Load():
	case a.keep:
		fmt.Fprintf(a.cli.stderr, "host-ctl: left session %s, which goes on: host-ctl attach %s %s\n", a.cmd.ID, a.target, a.cmd.ID)
	default:
		fmt.Fprintf(a.cli.stderr, "host-ctl: broke off: the guest ends the command\n")
	}
}

// tellGaps has gaps in the command's output told of.
func (a *attendance) tellGaps(k *guest.Cmd) {
	a.gaps = &gaps{w: &a.cli.stderr}
	k.OnGap = a.gaps.note
}

// connect connects this process's streams to a command.
func (a *attendance) connect(k *guest.Cmd, stdin bool) error {
	fail := func(err error) {
		if a.failed.CompareAndSwap(nil, &err) {
			go a.breakOff(exitFailure) // outcome has the code
		}
	}
	k.Stdout = &pipeWatcher{w: a.cli.stdout, ours: a.ours, broken: fail, col: &a.col}
	k.Stderr = &pipeWatcher{w: a.cli.stderr, ours: a.ours, broken: func(err error) {
		if !errors.Is(err, syscall.EPIPE) {
			fail(err)
		}
	}}
	if stdin {
		var err error
		if a.stdin, err = k.StdinPipe(); err != nil {
			return err
		}
	}
	return nil
}

// feed passes stdin on. It may stay in a read for ever: nobody waits for it.
func (a *attendance) feed() {
	var in io.Reader = a.cli.stdin
	if isTerminal(a.cli.stdin) {
		in = &escapeReader{r: a.cli.stdin, raw: a.tty != nil, escapes: a.escapes()}
	}
	if _, err := io.Copy(a.stdin, in); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, os.ErrClosed) {
		fmt.Fprintf(a.cli.stderr, "host-ctl: stdin: %v\n", err)
	}
	a.stdin.Close()
}

// escapes are what may be typed after "~" at the start of a line.
func (a *attendance) escapes() escapes {
	return escapes{
		breakOff: func() {
			a.tty.restore()
			a.escaped.Store(true)
			a.breakOff(exitSignal + 1)
		},
		suspend: func() {
			a.tty.suspend()
			a.resize() // it may have changed meanwhile
		},
		help: func() {
			left := "ends the command"
			if a.keep {
				left = "leaves the session running"
			}
			a.col.Store(true)
			fmt.Fprintf(a.cli.stderr, "Escapes, after a newline:\n  ~.   break off, which %s\n  ~^Z  suspend host-ctl (on a terminal of the command's)\n  ~?   this list\n  ~~   a single ~\n", left)
		},
	}
}

// forward passes signals on to the command's process group, and the terminal's
// size. A second signal to end, or the loss of this process's terminal, breaks
// off; of an observer, the first one.
func (a *attendance) forward(signals <-chan os.Signal, stop <-chan struct{}) {
	resized, done := notifyResize(a.tty)
	defer done()
	if a.keep {
		a.redraw() // the screen is another's
	} else if rows, columns, _ := a.cli.windowSize(); a.tty != nil && (rows != a.cmd.Terminal.Rows || columns != a.cmd.Terminal.Columns) {
		a.resize() // it has changed while the command was started
	}
	for asked := (wishes{}); ; {
		select {
		case <-stop:
			return
		case <-resized:
			a.resize()
		case sig := <-signals:
			if !asked.add(sig) {
				continue
			}
			if asked.n > 1 || a.aside || sig == syscall.SIGHUP {
				a.breakOff(exitCode(exitSignal + signalNumber(sig)))
				return
			}
			go a.pass(sig, stop)
		}
	}
}

// resize tells the command the size of this process's terminal, if it has one.
func (a *attendance) resize() {
	if a.tty == nil || a.aside {
		return
	}
	if rows, columns, ok := a.cli.windowSize(); ok {
		a.cmd.Process.Resize(rows, columns)
	}
}

// redraw has a full-screen program draw all of this process's terminal.
func (a *attendance) redraw() {
	if a.tty == nil || a.aside {
		return
	}
	if rows, columns, ok := a.cli.windowSize(); ok {
		a.cmd.Process.Redraw(rows, columns)
	}
}

// pass passes one signal on. The guest may be slow to answer, and the command may
// end of the signal before it has.
func (a *attendance) pass(sig os.Signal, stop <-chan struct{}) {
	err := a.cmd.Process.SignalGroup(guest.Signal(signalNumber(sig)))
	select {
	case <-stop:
		return
	default:
	}
	if err != nil && !errors.Is(err, os.ErrProcessDone) && a.tty == nil {
		fmt.Fprintf(a.cli.stderr, "host-ctl: %s; again to break off\n", visible(err.Error()))
	}
}

// breakOff leaves the command, which the guest then ends unless it is to be
// kept. host-ctl's exit code will be code.
func (a *attendance) breakOff(code exitCode) {
	a.breakOnce.Do(func() {
		a.broken = code
		if a.keep {
			a.cmd.Process.Detach()
		} else {
			a.cmd.Process.HangUp()
		}
	})
}

// terminal returns the terminal that the command is to have: as this process's,
// if it has one.
func (a *attendance) terminal() *guest.Terminal {
	t := &guest.Terminal{Term: os.Getenv("TERM")}
	t.Rows, t.Columns, _ = a.cli.windowSize()
	return t
}

// pipeWatcher is a writer that tells when a write fails. It writes nothing before ours
// is closed.
type pipeWatcher struct {
	w      io.Writer
	ours   <-chan struct{}
	broken func(error)
	col    *atomic.Bool // whether the last line has not ended; nil: of no interest
}

func (p *pipeWatcher) Write(b []byte) (int, error) {
	<-p.ours
	n, err := p.w.Write(b)
	if p.col != nil && n > 0 {
		p.col.Store(b[n-1] != '\n')
	}
	if err != nil {
		p.broken(err)
	}
	return n, err
}

// notify is signal.Notify but for signals that this process was started ignoring, by
// nohup or by a shell that put it in the background: those stay ignored. Go does not
// say whether QUIT was; shells have it ignored together with INT.
func notify(c chan<- os.Signal, signals ...os.Signal) {
	if signal.Ignored(os.Interrupt) {
		signal.Ignore(syscall.SIGQUIT)
	}
	for _, sig := range signals {
		if !signal.Ignored(sig) {
			signal.Notify(c, sig)
		}
	}
}

// signalNumber returns the number of a signal of this process; those that are
// forwarded have the same one everywhere.
func signalNumber(sig os.Signal) int {
	if s, ok := sig.(syscall.Signal); ok {
		return int(s)
	}
	return int(syscall.SIGINT)
}

// interruptible returns a context that ends when the user interrupts.
func interruptible(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case sig := <-signals:
			cancel(interrupted{signalNumber(sig)})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
	}
}
