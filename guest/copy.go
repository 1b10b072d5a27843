package guest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"strconv"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/internal/archive"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// transferID names a copy: the same for the same copy, so that it can be gone on
// with after this process has died.
func transferID(words ...string) [16]byte {
	h := sha256.New()
	for _, w := range words {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(w))))
		h.Write([]byte(w))
	}
	return [16]byte(h.Sum(nil))
}

func (o *CopyOptions) words() []string {
	return []string{fmt.Sprint(o.Archive, o.Follow, o.KeepSetuid)}
}

// copying is a copy under way, over all its connections.
type copying struct {
	files  *Files
	to     *Files // of a copy between guests: the receiver; otherwise nil
	opts   *CopyOptions
	memory archive.Memory
	total  CopyResult

	decided bool // what the destination was in the beginning
	missing bool // there was none

	mu       sync.Mutex
	after    *guestv1.Position
	progress CopyProgress
	moved    bool // something was done since the last connection was made
	once     bool // a source can be read only once
	attempt  int
	failures []error
	failed   uint64
	told     map[string]bool // the texts of failures
}

// maxTold bounds the failures that are known again when another try has them too.
const maxTold = 10_000

// destination returns the destination, and what the sources are called there, for
// one try: what a try makes under a new name must not be taken by the next one for
// a directory to copy into. It asks stat once.
func (c *copying) destination(dest string, names []string, split func(string) (dir, base string), stat func(string) error) (string, []string, error) {
	dir, base := split(dest)
	if len(names) != 1 || names[0] == "" || base == "" || base == "." || base == ".." {
		return dest, names, nil
	}
	if !c.decided {
		err := stat(dest)
		if e, ok := errors.AsType[*Error](err); ok && e.Code == codes.Unavailable {
			return "", nil, err
		}
		c.decided, c.missing = true, errors.Is(err, fs.ErrNotExist)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.missing || c.attempt == 1 {
		return dest, names, nil
	}
	if dir == "" {
		dir = "./"
	}
	return dir, []string{base}, nil
}

// statIn is what destination asks of a guest.
func statIn(ctx context.Context, f *Files) func(string) error {
	return func(name string) error {
		_, err := f.Stat(ctx, name)
		return err
	}
}

// toBytes returns names as they are sent.
func toBytes(names []string) [][]byte {
	var b [][]byte
	for _, name := range names {
		b = append(b, []byte(name))
	}
	return b
}

// done takes note of what Send or Receive tell.
func (c *copying) done(d archive.Done) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.Position != nil {
		c.after = d.Position
	}
	if d.Failure != nil && !c.told[d.Failure.Text] {
		c.failed++
		if len(c.told) < maxTold {
			if c.told == nil {
				c.told = make(map[string]bool)
			}
			c.told[d.Failure.Text] = true
		}
		if len(c.failures) < maxFailures {
			var err error = d.Failure
			switch {
			case d.Remote && c.to != nil && !d.Sender:
				err = c.to.g.failureError("copy", d.Failure)
			case d.Remote:
				err = c.files.g.failureError("copy", d.Failure)
			}
			c.failures = append(c.failures, err)
		}
	}
	c.moved = c.moved || d.Bytes > 0 || d.Position != nil
	c.total.Bytes += d.Bytes
	c.progress.Bytes += d.Bytes
	c.progress.Total += d.Size
	if c.attempt == 1 || d.Path != c.progress.Path {
		c.progress.Files += d.Files
	}
	if d.Path != "" {
		c.progress.Path = d.Path
	}
	if d.Files > 0 && c.opts.Each != nil {
		c.opts.Each(d.Path)
	}
	c.progress.Total = max(c.progress.Total, c.progress.Bytes)
	if c.opts.Progress != nil {
		c.opts.Progress(c.progress)
	}
}

// run runs try on one connection after the other until it succeeds, or fails
// for another reason than a lost connection.
func (c *copying) run(ctx context.Context, method string, try func(ctx context.Context, resume bool, after *guestv1.Position) (*guestv1.Finished, error)) (*CopyResult, error) {
	g := c.files.g
	again := reconnector{limit: g.reconnect}
	// It goes on with the guests that it began with.
	ctx = g.withinRun(ctx)
	if c.to != nil && c.to.g != g {
		ctx = c.to.g.withinRun(ctx)
	}
	for {
		c.mu.Lock()
		c.attempt++
		resume, after := c.opts.Resume || c.opts.NoReplace || c.attempt > 1, c.after
		c.moved = false
		// What the receiver does not have of what was begun is begun again.
		c.progress.Total = c.progress.Bytes
		c.mu.Unlock()
		tryCtx, cancel := context.WithCancel(ctx)
		finished, err := try(tryCtx, resume, after)
		cancel()
		c.mu.Lock()
		moved := c.moved
		c.mu.Unlock()
		if err == nil {
			return c.result(finished)
		}
		if moved {
			again.connected()
		}
		wrapped := c.wrap(method, err)
		delay, ok := again.next()
		if !ok || !c.mayRetry(ctx, wrapped) {
			return c.partial(), wrapped
		}
		g.log.Info("connection lost: going on with the copy", "in", delay, "error", err)
		c.total.Resumed++
		if !pause(ctx, g.closed, delay) {
			if err := ctx.Err(); err != nil {
				return c.partial(), g.wrap("copy", method, err)
			}
			return c.partial(), g.newError("copy", codes.Canceled, ReasonClosed, "the guest was closed")
		}
	}
}

// pace returns what bounds the speed of one connection.
func (c *copying) pace() *pace { return &pace{rate: c.opts.Bandwidth} }

// tries returns which connection of the copy it is, from 1 on.
func (c *copying) tries() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return uint32(c.attempt)
}

func (c *copying) partial() *CopyResult {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.total
	r.Failed = c.failed
	return &r
}

func (c *copying) result(m *guestv1.Finished) (*CopyResult, error) {
	r := c.partial()
	r.Files, r.Bytes, r.Skipped, r.SetuidDropped = m.GetFiles(), m.GetBytes(), m.GetSkipped(), m.GetSetuidDropped()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.progress.Bytes = max(c.progress.Bytes, r.Bytes) // of what was cut, not all was told
	if c.progress.Total = c.progress.Bytes; c.opts.Progress != nil {
		c.opts.Progress(c.progress)
	}
	if c.failed > 0 || m.GetFailed() > 0 {
		r.Failed = max(c.failed, m.GetFailed())
		return r, &CopyError{Failed: r.Failed, Failures: c.failures}
	}
	return r, nil
}

// wrap makes err one of this package's, unless it is of this machine's files.
func (c *copying) wrap(method string, err error) error {
	g := c.files.g
	if side, ok := errors.AsType[*archive.RelayError](err); ok && !side.Sender {
		g, method = c.to.g, guestv1.FileService_Upload_FullMethodName
	}
	if f, ok := errors.AsType[*archive.Failure](err); ok {
		if f.Reason == archive.ReasonProtocol {
			return g.wrap("copy", method, protocolError("%s", f.Text))
		}
		return f
	}
	return g.wrap("copy", method, err)
}

// mayRetry reports whether another connection may help.
func (c *copying) mayRetry(ctx context.Context, wrapped error) bool {
	e, ok := errors.AsType[*Error](wrapped)
	if ctx.Err() != nil || !ok || e.Code != codes.Unavailable || c.once {
		return false
	}
	guests := []*Guest{c.files.g}
	if c.to != nil {
		guests = append(guests, c.to.g)
	}
	temporary := e.Reason == reasonCut || e.Reason == ReasonUnreachable
	for _, g := range guests {
		select {
		case <-g.closed:
			return false
		default:
		}
		if g.reconnect == 0 {
			return false
		}
		if te := g.dialer.lastError(); te != nil && e.Reason != reasonCut {
			if !te.Temporary() {
				return false
			}
			temporary = true
		}
	}
	return temporary
}

// reasonCut is the agent's word for a connection that it has lost.
const reasonCut = "transfer-cut"

// Where the streams of uploads and downloads have the same messages, one
// description serves both.
var copyDesc = grpc.StreamDesc{StreamName: "Copy", ServerStreams: true, ClientStreams: true}

// copyStream is an upload or a download that the one who sends can end, when it
// waits for a receiver that has broken the protocol.
type copyStream struct {
	grpc.ClientStream
	cancel context.CancelFunc
}

// Abort implements archive.Aborter.
func (s copyStream) Abort() { s.cancel() }

// newCopyStream makes a call, which lasts until ctx ends at most.
func (g *Guest) newCopyStream(ctx context.Context, method string) (copyStream, error) {
	ctx, cancel := context.WithCancel(ctx)
	st, err := g.conn.NewStream(ctx, &copyDesc, method)
	if err != nil {
		cancel()
	}
	return copyStream{st, cancel}, err
}

// CopyTo copies files of this machine to the guest. A destination that is a
// directory, or ends in a slash, gets the sources in it, otherwise it is the name
// for a single one. A source that ends in "/." is what is in the directory; one that is a pipe, such as
// /dev/stdin may be, is read to its end and copied as a file. A copy of a pipe cannot go
// on after a lost connection.
//
// Whatever happens, a file of the guest has its old contents or the new ones. A
// lost connection is re-established, for as long as Config.Reconnect says, and the copy
// goes on where it was. The result counts what was done, also with an error. A
// [*CopyError] means that all was copied but for some files.
func (f *Files) CopyTo(ctx context.Context, sources []string, destination string, opts *CopyOptions) (*CopyResult, error) {
	opts, err := opts.checked()
	if err != nil {
		return &CopyResult{}, err
	}
	c := &copying{files: f, opts: opts}
	words := append([]string{"to", f.g.target, f.User, f.Group, destination}, opts.words()...)
	open := &guestv1.UploadOpen{Subject: f.subject(), Options: opts.message()}
	var list []archive.Source
	var names []string
	for _, s := range sources {
		source, name, err := splitSource(s, filepath.Base, filepath.Abs)
		if err != nil {
			return &CopyResult{}, err
		}
		if source, err = c.openPipe(source); err != nil {
			return &CopyResult{}, err
		}
		if file, ok := source.Reader.(*os.File); ok {
			defer file.Close()
		}
		list = append(list, source)
		names = append(names, name)
		words = append(words, s, source.Path)
	}
	if len(list) == 0 {
		return &CopyResult{}, errors.New("copy: no sources")
	}
	id := transferID(words...)
	open.TransferId = id[:]
	method := guestv1.FileService_Upload_FullMethodName
	mirrored := c.mirror(ctx, thisMachine{}, f, list, names, destination)
	result, err := c.run(ctx, method, func(ctx context.Context, resume bool, after *guestv1.Position) (*guestv1.Finished, error) {
		dst, names, err := c.destination(destination, names, path.Split, statIn(ctx, f))
		if err != nil {
			return nil, err
		}
		st, err := f.g.newCopyStream(ctx, method)
		if err != nil {
			return nil, err
		}
		open.Destination, open.Names, open.Resume, open.Replace, open.Attempt = []byte(dst), toBytes(names), resume, !opts.Resume, c.tries()
		// What a failed SendMsg means, Send says.
		_ = st.SendMsg(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Open{Open: open}})
		return archive.Send(pacedSend{st, c.pace()}, &archive.SendConfig{Sources: list, Options: open.Options, Names: hostNames(opts), Resume: resume, After: after, Memory: &c.memory, OnDone: c.done})
	})
	if err == nil {
		err = c.deleteOthers(ctx, thisMachine{}, f, mirrored, result)
	}
	return result, err
}

// hostNames looks up this machine's users and groups.
func hostNames(opts *CopyOptions) archive.Names {
	if !opts.Archive {
		return archive.Names{}
	}
	users, groups := make(map[uint32]string), make(map[uint32]string)
	cached := func(cache map[uint32]string, find func(id string) string) func(uint32) string {
		return func(id uint32) string {
			name, ok := cache[id]
			if !ok {
				name = find(strconv.FormatUint(uint64(id), 10))
				cache[id] = name
			}
			return name
		}
	}
	return archive.Names{
		User: cached(users, func(id string) string {
			if u, err := user.LookupId(id); err == nil {
				return u.Username
			}
			return ""
		}),
		Group: cached(groups, func(id string) string {
			if g, err := user.LookupGroupId(id); err == nil {
				return g.Name
			}
			return ""
		}),
	}
}
