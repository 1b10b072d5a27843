package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Cmd is a command to run in a guest. Its fields and methods are those of
// exec.Cmd, with the same meaning but for these:
//
//   - Path without a slash is looked up in the guest, when the command starts:
//     so it is Start that fails with an error which is exec.ErrNotFound.
//   - A nil Env is the base environment that the agent documents, and an empty
//     Dir is the home of the user in the guest.
//   - An *os.File as Stdin, Stdout or Stderr is read or written by this process.
//     Wait does not wait for a Stdin that is one, since a read of a terminal
//     would not end.
//   - When the process has exited and another process holds its output open, the
//     agent cuts the output after a while, whatever WaitDelay is.
//   - The default Cancel kills everything that the session has started.
//   - There are no ExtraFiles and no SysProcAttr.
//
// A Cmd cannot be used again after Run, Output, CombinedOutput or Start. Set the
// fields before that and do not change them afterwards.
type Cmd struct {
	Path string   // the program
	Args []string // with the program's name as Args[0]; if empty, {Path}
	// Env is the whole environment, each "NAME=value"; nil for the guest's
	// base environment. Bytes are passed as they are.
	Env []string
	Dir string

	Stdin  io.Reader // nil: /dev/null
	Stdout io.Writer // nil: dropped
	Stderr io.Writer // the same as Stdout: only one Write at a time

	Process      *Process      // set by Start
	ProcessState *ProcessState // set by Wait, if the process's end is known
	Cancel       func() error  // called when the context is done; see exec.Cmd
	WaitDelay    time.Duration // see exec.Cmd

	// ID is the session's id; the zero value lets Start make one. Two starts
	// with the same id start one process.
	ID SessionID
	// Name is a name for the session, beside its id. It must not be that of a
	// session that runs.
	Name string
	// ExtraEnv is added to Env or the base environment, each "NAME=value".
	ExtraEnv []string
	// Locale is LANG and LC_* of this side's user, each "NAME=value": the base
	// environment gets those that name a locale of the guest.
	Locale []string
	// User and Group to run as, each a name or a number; empty for the agent's
	// own user, and the user's group. Command sets the configuration file's.
	User, Group string
	// LoginShell runs the user's login shell. Path is ignored, and Args[1:] are
	// the shell's arguments.
	LoginShell bool
	// Terminal, if not nil, runs the command on a terminal: Stdout gets what is
	// written to it, and Stderr nothing.
	Terminal *Terminal
	// Detach leaves the session running when this program goes, or its
	// connection. If Stdin, Stdout and Stderr are nil too, the session is started
	// without being attached; Wait then waits for its end.
	Detach bool
	// KillRemaining has the guest end everything that the process has started when it
	// exits. Otherwise what it left running goes on. A session that is ended, by a
	// time limit, by HangUp or since its owner is gone, always ends with everything
	// that it has started.
	KillRemaining bool
	// OpenStdin gives a session that is started without being attached a stdin, which
	// stays open for who attaches to it. Otherwise that is /dev/null.
	OpenStdin bool
	// OwnerGrace is how long, in guest time, a session that is not detached
	// outlives a lost connection; 0 means the agent's default, 5 s.
	OwnerGrace time.Duration
	// Timeout, if not 0, has the guest end the session after so long.
	Timeout time.Duration
	// Retention is how long the agent keeps the result and the last output after
	// the end; 0 means its default, 5 min.
	Retention time.Duration
	// KeepResult has the agent keep them that long also when Wait, or another reader,
	// has taken all of them.
	KeepResult bool
	// RingBytes is how much output of each stream the agent keeps until it is
	// acknowledged; 0 means its default, 1 MiB.
	RingBytes uint64
	// DropOldest has a full ring drop its oldest bytes rather than make the
	// process wait.
	DropOldest bool
	// Limits bound what the session may use; nil for no limits.
	Limits *Limits
	// OnGap, if not nil, is called where n bytes from offset on of stdout (1) or
	// stderr (2) are missing, between the writes before and after them. Only
	// DropOldest and observers make gaps; the ProcessState counts them.
	OnGap func(fd int, offset, n uint64)

	g        *Guest
	ctx      context.Context
	attach   *guestv1.Open // of Guest.Attach
	io       *stdio
	s        *session // nil if nobody is attached
	started  bool
	waited   bool
	copied   chan error // the first error of the copies, when all are done
	canceled chan error // what the end of the context did
}

// Terminal is a terminal for a command.
type Terminal struct {
	Rows, Columns int    // the size at the start; see Process.Resize
	Term          string // the value of TERM; empty for the agent's default
}

// term returns the value of TERM, "" of a nil t.
func (t *Terminal) term() string {
	if t == nil {
		return ""
	}
	return t.Term
}

// AttachOptions say how Guest.Attach attaches. The zero value, or a nil pointer,
// attaches as the owner, from the first byte on.
type AttachOptions struct {
	// Observer reads along, and never makes the process wait: it may miss bytes.
	// Otherwise this is the owner, whose reading frees the session's memory.
	Observer bool
	// TakeOver takes the ownership from who has it. Without it a session that
	// has an owner refuses another.
	TakeOver bool
	// Stdout and Stderr are the offsets of the first bytes wanted.
	Stdout, Stderr uint64
	// FromOldest starts at the oldest bytes that the agent still has.
	FromOldest bool
	// Tail, if not nil, starts so many bytes before the end so far.
	Tail *uint64
}

// Command returns a command that runs name with arguments in the guest. When
// ctx is done before the command has ended, its Cancel is called.
func (g *Guest) Command(ctx context.Context, name string, arg ...string) *Cmd {
	c := &Cmd{Path: name, Args: append([]string{name}, arg...), User: g.user, g: g, ctx: ctx}
	c.Cancel = func() error {
		if c.Detach {
			return c.Process.Detach()
		}
		return c.Process.killGroup()
	}
	return c
}

// Attach returns a Cmd whose Start attaches to a session that exists, named by
// its id or its name. Of its fields only Stdin, Stdout, Stderr, OnGap, Cancel
// and WaitDelay count. When ctx is done, Cancel is called, which leaves the session as
// Process.Detach does: it goes on, and Wait returns an error that is ctx's too.
func (g *Guest) Attach(ctx context.Context, session string, opts *AttachOptions) *Cmd {
	if opts == nil {
		opts = &AttachOptions{}
	}
	open := &guestv1.Open{Role: guestv1.Role_ROLE_OWNER, TakeOver: opts.TakeOver, FromOldest: opts.FromOldest,
		StdoutOffset: opts.Stdout, StderrOffset: opts.Stderr, TailBytes: opts.Tail}
	if opts.Observer {
		open.Role = guestv1.Role_ROLE_OBSERVER
	}
	if id, err := ParseSessionID(session); err == nil {
		open.SessionId = id[:]
	} else {
		open.Name = session
	}
	c := &Cmd{Path: session, g: g, ctx: ctx, attach: open}
	c.Cancel = func() error { return c.Process.Detach() }
	return c
}

// String returns the command for people, as exec.Cmd's does.
func (c *Cmd) String() string {
	var b strings.Builder
	b.WriteString(c.Path)
	for _, a := range c.argv()[1:] {
		b.WriteString(" " + a)
	}
	return b.String()
}

func (c *Cmd) argv() []string {
	if len(c.Args) > 0 {
		return c.Args
	}
	return []string{c.Path}
}

// Run starts the command and waits for its end. If it ran and did not succeed,
// the error is an [*ExitError].
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the command and returns its standard output. If Stderr is nil, an
// [*ExitError] has a part of what was written to it.
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("exec: Stdout already set")
	}
	var stdout bytes.Buffer
	c.Stdout = &stdout
	var stderr *edges
	if c.Stderr == nil {
		stderr = &edges{}
		c.Stderr = stderr
	}
	err := c.Run()
	if e, ok := err.(*ExitError); ok && stderr != nil {
		e.Stderr = stderr.Bytes()
	}
	return stdout.Bytes(), err
}

// CombinedOutput runs the command and returns what it wrote to its standard
// output and error, in the order in which it arrived.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("exec: Stdout already set")
	}
	if c.Stderr != nil {
		return nil, errors.New("exec: Stderr already set")
	}
	var both bytes.Buffer
	c.Stdout, c.Stderr = &both, &both
	err := c.Run()
	return both.Bytes(), err
}

// Start starts the command and does not wait for its end. When it returns nil,
// the process runs, or has run, and Process is set; then Wait must be called to
// release resources, unless Guest.Close is.
//
// A connection that is lost meanwhile is re-established as after Start: nothing runs
// twice.
func (c *Cmd) Start() error {
	if c.started {
		return errors.New("exec: already started")
	}
	c.started = true
	if c.Path == "" && !c.LoginShell {
		return errors.New("exec: no command")
	}
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if name := c.attach.GetName(); !utf8.ValidString(name) {
		return c.g.wrap("attach", "", notUTF8("the session's name", name))
	}
	if c.attach != nil {
		c.g.settle() // a session whose end Wait has returned is gone, or kept, by then
	}
	if c.attach.GetRole() == guestv1.Role_ROLE_OBSERVER && (c.Stdin != nil || c.io != nil && c.io.in != nil) {
		return c.g.wrap("attach", "", observerError())
	}
	method, op, open := guestv1.ProcessService_Attach_FullMethodName, "attach", c.attach
	if open == nil {
		spec, err := c.spec()
		if err != nil {
			return err
		}
		if c.ID.IsZero() {
			c.ID = NewSessionID()
		}
		if c.Detach && !c.attached() {
			return c.startDetached(spec)
		}
		method, op = guestv1.ProcessService_Exec_FullMethodName, "exec"
		open = &guestv1.Open{SessionId: bytes.Clone(c.ID[:]), Spec: spec, Role: guestv1.Role_ROLE_OWNER}
	}
	copies := c.prepare()
	c.s = c.g.newSession(c.ctx, op, method, open, c.io)
	go c.s.run()
	select {
	case <-c.s.opened:
	case <-c.ctx.Done():
		c.s.stop(c.ctx.Err())
		<-c.s.opened
	}
	c.io.mu.Lock()
	info, err := c.s.info, c.s.err
	c.io.mu.Unlock()
	if info == nil {
		c.closePipes()
		return err
	}
	copy(c.ID[:], info.SessionId)
	c.Process = &Process{Pid: int(info.Pid), ID: c.ID, g: c.g, s: c.s}
	c.startCopies(copies)
	c.canceled = make(chan error, 1)
	go c.watch()
	return nil
}

func (c *Cmd) startDetached(spec *guestv1.SessionSpec) error {
	info, err := c.g.startSession(c.ctx, c.ID, spec)
	if err != nil {
		return err
	}
	c.Process = &Process{Pid: int(info.GetPid()), ID: c.ID, g: c.g, started: info}
	return nil
}

// spec returns the command in the protocol's terms.
func (c *Cmd) spec() (*guestv1.SessionSpec, error) {
	spec := &guestv1.SessionSpec{
		Dir: []byte(c.Dir), User: []byte(c.User), Group: []byte(c.Group), Name: c.Name,
		ClearEnv: c.Env != nil, Stdin: c.Stdin != nil || c.io != nil && c.io.in != nil,
		TimeoutMillis: millis(c.Timeout), RingBytes: c.RingBytes, Limits: c.Limits.message(), LoginShell: c.LoginShell,
		StderrToStdout: c.sameWriter(), KillRemaining: c.KillRemaining, KeepResult: c.KeepResult,
	}
	spec.Stdin = spec.Stdin || c.OpenStdin && c.Detach && !c.attached()
	argv := c.argv()
	for _, a := range argv {
		spec.Args = append(spec.Args, []byte(a))
	}
	if c.LoginShell {
		spec.Args = spec.Args[1:]
	} else if argv[0] != c.Path {
		spec.Args[0], spec.Arg0 = []byte(c.Path), []byte(argv[0])
	}
	for _, e := range append(append([]string(nil), c.Env...), c.ExtraEnv...) {
		spec.Env = append(spec.Env, []byte(e))
	}
	for _, e := range c.Locale {
		spec.Locale = append(spec.Locale, []byte(e))
	}
	for _, group := range [][][]byte{spec.Args, spec.Env, spec.Locale, {spec.Dir, spec.User, spec.Group}} {
		for _, b := range group {
			if bytes.IndexByte(b, 0) >= 0 {
				return nil, c.g.wrap("exec", "", &Error{Code: codes.InvalidArgument, Reason: "nul-byte", Errno: linuxEINVAL,
					message: "an argument, environment variable or path holds a zero byte"})
			}
		}
	}
	for _, text := range []struct{ what, value string }{{"the session's name", c.Name}, {"TERM", c.Terminal.term()}} {
		if !utf8.ValidString(text.value) {
			return nil, c.g.wrap("exec", "", notUTF8(text.what, text.value))
		}
	}
	if c.Terminal != nil {
		spec.Terminal = &guestv1.Terminal{Size: windowSize(c.Terminal.Rows, c.Terminal.Columns), Term: c.Terminal.Term}
	}
	spec.OwnerGone = guestv1.OwnerGone_OWNER_GONE_KILL
	if c.Detach {
		spec.OwnerGone = guestv1.OwnerGone_OWNER_GONE_KEEP
	}
	if c.OwnerGrace > 0 {
		spec.OwnerGraceMillis = proto.Uint64(millis(c.OwnerGrace))
	}
	if c.Retention > 0 {
		spec.RetentionMillis = proto.Uint64(millis(max(c.Retention, c.g.reconnect)))
	} else if c.g.reconnect > defaultRetention {
		spec.RetentionMillis = proto.Uint64(millis(c.g.reconnect))
	}
	spec.RingFull = guestv1.RingFull_RING_FULL_BLOCK
	if c.DropOldest {
		spec.RingFull = guestv1.RingFull_RING_FULL_DROP_OLDEST
	}
	return spec, nil
}

func notUTF8(what, value string) error {
	return &Error{Code: codes.InvalidArgument, Reason: "bad-spec", Errno: linuxEINVAL,
		message: fmt.Sprintf("%s is not UTF-8: %q", what, value)}
}

// defaultRetention is how long an agent keeps results.
const defaultRetention = 5 * time.Minute

// millis rounds up: a time that was given is never none.
func millis(d time.Duration) uint64 {
	if d <= 0 {
		return 0
	}
	return uint64((d + time.Millisecond - 1) / time.Millisecond)
}
