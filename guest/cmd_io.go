package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// abandonAfter is how long a command that was canceled is waited for when its
// guest gives no sign of life any more.
const abandonAfter = 5 * time.Second

// stdio is a Cmd's ends of the session's streams. It exists before the session
// does, since the pipes do.
type stdio struct {
	mu    sync.Mutex // of the session too
	in    *input     // nil: not connected
	out   [2]*output
	pipes [2]bool // StdoutPipe, StderrPipe
}

func (c *Cmd) streams() *stdio {
	if c.io == nil {
		c.io = &stdio{}
		offsets := [2]uint64{c.attach.GetStdoutOffset(), c.attach.GetStderrOffset()}
		for i, stream := range []guestv1.Stream{guestv1.Stream_STREAM_STDOUT, guestv1.Stream_STREAM_STDERR} {
			c.io.out[i] = newOutput(&c.io.mu, stream, offsets[i], defaultWindow)
		}
	}
	return c.io
}

// StdinPipe returns a pipe to the command's standard input. Wait closes it; to
// have the command see the end of its input before, close it. A Write returns
// when the bytes are kept to be sent, and fails with EPIPE after the end.
func (c *Cmd) StdinPipe() (io.WriteCloser, error) {
	switch {
	case c.Stdin != nil || c.streams().in != nil:
		return nil, errors.New("exec: Stdin already set")
	case c.started:
		return nil, errors.New("exec: StdinPipe after process started")
	}
	c.io.in = newInput(&c.io.mu)
	return inputWriter{c.io.in}, nil
}

// StdoutPipe returns a pipe from the command's standard output. Wait closes it,
// so all has to be read before Wait is called.
func (c *Cmd) StdoutPipe() (io.ReadCloser, error) {
	return c.outputPipe(0, "Stdout", c.Stdout)
}

// StderrPipe returns a pipe from the command's standard error. Wait closes it,
// so all has to be read before Wait is called.
func (c *Cmd) StderrPipe() (io.ReadCloser, error) {
	return c.outputPipe(1, "Stderr", c.Stderr)
}

func (c *Cmd) outputPipe(i int, name string, w io.Writer) (io.ReadCloser, error) {
	switch {
	case w != nil || c.streams().pipes[i]:
		return nil, fmt.Errorf("exec: %s already set", name)
	case c.started:
		return nil, fmt.Errorf("exec: %sPipe after process started", name)
	}
	c.io.pipes[i] = true
	return outputReader{c.io.out[i]}, nil
}

// attached reports whether something of this side is connected to the session.
func (c *Cmd) attached() bool {
	return c.Stdin != nil || c.Stdout != nil || c.Stderr != nil ||
		c.io != nil && (c.io.in != nil || c.io.pipes != [2]bool{})
}

// sameWriter reports whether both outputs go to one writer.
func (c *Cmd) sameWriter() bool {
	defer func() { recover() }() // of types that cannot be compared
	return c.Stdout != nil && c.Stdout == c.Stderr
}

// prepare makes the streams ready for the session and returns what is to be
// copied once the process runs.
func (c *Cmd) prepare() []func() error {
	sio := c.streams()
	var copies []func() error
	if c.Stdin != nil {
		in := newInput(&sio.mu)
		sio.in = in
		feed := func() error {
			_, err := io.Copy(inputWriter{in}, c.Stdin)
			in.close()
			if errors.Is(err, errPipe) || errors.Is(err, os.ErrClosed) {
				return nil // the process did not want all: its own business
			}
			return err
		}
		if _, ok := c.Stdin.(*os.File); ok {
			// A read of a file may never end, and then nobody waits for it.
			unwaited := feed
			feed = func() error { go unwaited(); return nil }
		}
		copies = append(copies, feed)
	}
	writers := [2]io.Writer{c.Stdout, c.Stderr}
	if c.sameWriter() {
		shared := &lockedWriter{w: c.Stdout}
		writers = [2]io.Writer{shared, shared}
	}
	for i, w := range writers {
		o := sio.out[i]
		if c.OnGap != nil {
			o.onGap = func(offset, n uint64) { c.OnGap(i+1, offset, n) }
		}
		switch {
		case sio.pipes[i]:
		case w == nil:
			o.closed = true
		default:
			copies = append(copies, func() error { return o.copyTo(w) })
		}
	}
	return copies
}

// lockedWriter lets two goroutines write to one writer.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(p)
}

// startCopies runs the copies; copied gets their first error when all are done.
func (c *Cmd) startCopies(copies []func() error) {
	if len(copies) == 0 {
		return
	}
	c.copied = make(chan error, 1)
	go func() {
		errs := make(chan error, len(copies))
		for _, f := range copies {
			go func() { errs <- f() }()
		}
		var first error
		for range copies {
			if err := <-errs; first == nil {
				first = err
			}
		}
		c.copied <- first
	}()
}

// closePipes gives up what this side holds of the streams.
func (c *Cmd) closePipes() {
	for _, o := range c.io.out {
		o.close()
	}
	if c.io.in != nil {
		c.io.mu.Lock()
		c.io.in.finish(os.ErrClosed)
		c.io.mu.Unlock()
	}
}

// Wait waits for the end of the command, and for the copying from Stdin, unless
// that is an *os.File, and to Stdout and Stderr. If the command ran and did not
// succeed the error is an [*ExitError]; if its end could not be learned it is an
// [*Error].
func (c *Cmd) Wait() error {
	switch {
	case c.Process == nil:
		return errors.New("exec: not started")
	case c.waited:
		return errors.New("exec: Wait was already called")
	}
	c.waited = true
	if c.s == nil {
		return c.waitDetached()
	}
	<-c.s.done
	canceled := <-c.canceled
	c.io.mu.Lock()
	exit, err := c.s.exit, c.s.err
	c.io.mu.Unlock()
	if exit != nil {
		c.ProcessState = &ProcessState{pid: c.Process.Pid, exit: exit}
		if !c.ProcessState.Success() {
			err = &ExitError{ProcessState: c.ProcessState}
		}
	} else if canceled != nil && !errors.Is(err, canceled) {
		err = errors.Join(err, canceled)
	}
	if err == nil {
		err = canceled
	}
	if copyErr := c.awaitCopies(); err == nil {
		err = copyErr
	}
	if err == nil && exit.GetOutputHeldOpen() && c.WaitDelay > 0 {
		err = exec.ErrWaitDelay
	}
	c.closePipes()
	if c.ProcessState != nil {
		c.io.mu.Lock()
		c.ProcessState.lost = [2]uint64{c.io.out[0].lost, c.io.out[1].lost}
		c.io.mu.Unlock()
	}
	return err
}

func (c *Cmd) waitDetached() error {
	state, err := c.g.WaitSession(c.ctx, c.ID)
	if err != nil {
		return err
	}
	state.pid = c.Process.Pid
	c.ProcessState = state
	if !state.Success() {
		return &ExitError{ProcessState: state}
	}
	return nil
}

// awaitCopies waits for the copies, for WaitDelay if that is set, and returns
// their error.
func (c *Cmd) awaitCopies() error {
	if c.copied == nil {
		return nil
	}
	if c.WaitDelay == 0 {
		return <-c.copied
	}
	timer := time.NewTimer(c.WaitDelay)
	defer timer.Stop()
	select {
	case err := <-c.copied:
		return err
	case <-timer.C:
		return exec.ErrWaitDelay
	}
}

// watch waits for the end of the session. When the context is done before, it
// cancels the command; see exec.Cmd's Cancel and WaitDelay. It runs from Start
// on, and canceled gets what Wait should report.
func (c *Cmd) watch() {
	c.canceled <- c.cancelWhenDone()
}

func (c *Cmd) cancelWhenDone() error {
	select {
	case <-c.s.done:
		return nil
	case <-c.ctx.Done():
	}
	if c.Cancel == nil && c.WaitDelay == 0 {
		return nil
	}
	var report error
	if c.Cancel != nil {
		switch err := c.Cancel(); {
		case err == nil:
			report = c.ctx.Err()
		case errors.Is(err, os.ErrProcessDone):
		default:
			report = fmt.Errorf("exec: canceling Cmd: %w", err)
		}
	}
	if c.WaitDelay > 0 {
		select {
		case <-c.s.done:
			return report
		case <-time.After(c.WaitDelay):
			c.Process.killGroup()
		}
	}
	if c.Process.killed.Load() {
		// If the guest is gone for good, nobody will tell of the end.
		select {
		case <-c.s.done:
		case <-time.After(abandonAfter):
			c.s.stop(c.ctx.Err())
		}
	}
	return report
}

// edges keeps the first and the last bytes of what is written to it.
type edges struct {
	first, last []byte
	skipped     int64
}

// edgeSize is how much edges keeps at each end.
const edgeSize = 32 << 10

func (e *edges) Write(p []byte) (int, error) {
	n := len(p)
	head := min(edgeSize-len(e.first), n)
	e.first = append(e.first, p[:head]...)
	e.last = append(e.last, p[head:]...)
	if over := len(e.last) - edgeSize; over > 0 {
		e.skipped += int64(over)
		e.last = append(e.last[:0], e.last[over:]...)
	}
	return n, nil
}

func (e *edges) Bytes() []byte {
	if e.skipped == 0 {
		return append(e.first, e.last...)
	}
	return fmt.Appendf(e.first, "\n... omitting %d bytes ...\n%s", e.skipped, e.last)
}
