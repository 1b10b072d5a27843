package archive

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/internal/bulk"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// SendConfig is what Send sends.
type SendConfig struct {
	Sources []Source
	// Root bounds the paths of the sources; nil for the whole file system.
	Root    *os.Root
	Options *guestv1.TransferOptions
	Names   Names
	// Denied are files to leave out: each counts as one that cannot be read.
	Denied Denied
	// Resume offers entries before they are sent, from After on.
	Resume bool
	After  *guestv1.Position
	// Memory is that of earlier tries; nil for none.
	Memory *Memory
	// OnDone, if not nil, is told of entries that are in place at the receiver,
	// and of those that failed on either side. It is called by one goroutine at a
	// time, and must not call the sender.
	OnDone func(Done)
}

// Done tells how far a transfer has come.
type Done struct {
	Position *guestv1.Position // up to here all is done; nil: unchanged
	Failure  *Failure          // what went wrong with one file; nil: nothing
	Remote   bool              // the failure is the other side's
	Sender   bool              // with Remote, of Relay: the sender's, not the receiver's
	Bytes    uint64            // contents consumed since the last call
	Size     uint64            // contents that were found to be sent since then
	Files    uint64            // entries sent since then
	Path     string            // the file that is sent now; empty: unchanged
}

// Send sends the sources on st, whose opening messages have been exchanged but
// for the receiver's ready, and returns what the receiver says at its end. What
// went wrong with single files OnDone learns.
//
// It does its work with files on the goroutine that calls it.
func Send(st Stream, cfg *SendConfig) (*guestv1.Finished, error) {
	return run(st, cfg, (*sender).walk)
}

// run sends what produce sends.
func run(st Stream, cfg *SendConfig, produce func(*sender) error) (*guestv1.Finished, error) {
	ctx, cancel := context.WithCancel(st.Context())
	defer cancel()
	s := &sender{st: st, cfg: cfg, ctx: ctx, decisions: make(chan *guestv1.Decision, 1), frame: bulk.Frame{Layout: bulk.FilePiece}}
	if s.cfg.Memory == nil {
		s.cfg.Memory = &Memory{}
	}
	s.cond.L = &s.mu
	received := make(chan struct{})
	go func() {
		defer close(received)
		defer cancel()
		err := s.receive()
		s.stop(err)
		if a, ok := st.(Aborter); ok && err != nil && !errors.Is(err, ErrCut) {
			a.Abort()
		}
	}()
	unwatch := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.cond.Broadcast()
	})
	defer unwatch()
	err := s.send(produce)
	if err == nil {
		<-received
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.finished != nil {
			return s.finished, nil
		}
		return nil, s.err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, ErrCut) {
		<-received // RecvMsg has the reason
		s.mu.Lock()
		defer s.mu.Unlock()
		err = s.err
	}
	s.doneMu.Lock()
	defer s.doneMu.Unlock()
	s.over = true
	return nil, err
}

type sender struct {
	st     Stream
	cfg    *SendConfig
	ctx    context.Context
	frame  bulk.Frame
	walker walker

	crc        bool             // sums are CRCs
	number     uint64           // of the last entry
	batch      []*guestv1.Entry // not sent yet
	batchBytes int
	offers     []*item // with Resume: what the receiver has to decide on

	mu        sync.Mutex
	cond      sync.Cond
	ready     bool
	readyCRC  bool
	window    uint64
	sent      uint64 // bytes of contents
	acked     uint64
	sentEntry uint64
	underway  []*guestv1.Entry // sent and not acknowledged, by number
	ackEntry  uint64
	refused   uint64 // entries that the receiver could not make
	idle      int    // messages in succession that said nothing new
	finishing bool
	finished  *guestv1.Finished
	err       error

	decisions chan *guestv1.Decision

	doneMu sync.Mutex // taken after mu
	over   bool       // OnDone is not to be called any more
}

// stop notes the end of the receiver's messages.
func (s *sender) stop(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.cond.Broadcast()
}

// done passes on how far it is.
func (s *sender) done(d Done) {
	s.doneMu.Lock()
	defer s.doneMu.Unlock()
	if s.cfg.OnDone != nil && !s.over {
		s.cfg.OnDone(d)
	}
}

// room waits until so many bytes and one more entry may be sent.
func (s *sender) room(bytes uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.err == nil && s.ctx.Err() == nil {
		if s.ready && s.sent-s.acked+bytes <= s.window && len(s.underway) < maxUnderway {
			s.sent += bytes
			return nil
		}
		s.cond.Wait()
	}
	if s.err != nil {
		return s.err
	}
	return s.ctx.Err()
}

// send sends what produce does, to its end.
func (s *sender) send(produce func(*sender) error) error {
	if err := s.room(0); err != nil {
		return err
	}
	s.mu.Lock()
	s.crc = s.readyCRC
	s.mu.Unlock()
	if err := produce(s); err != nil {
		return err
	}
	if err := s.flush(); err != nil {
		return err
	}
	s.mu.Lock()
	s.finishing = true
	s.mu.Unlock()
	return s.control(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Finish{Finish: &guestv1.Finish{Entries: s.number}}})
}

// walk walks the sources and sends what it finds.
func (s *sender) walk() error {
	o := s.cfg.Options
	w := &s.walker
	*w = walker{ctx: s.ctx, sources: s.cfg.Sources, root: s.cfg.Root, archive: o.GetArchive(), follow: o.GetFollow(), after: s.cfg.After, names: s.cfg.Names, denied: s.cfg.Denied, exclude: o.GetExclude()}
	w.fail = func(source int, path string, f *Failure) error {
		return s.failed(&guestv1.Entry{Source: uint32(source), Path: []byte(path)}, f)
	}
	w.visit = s.sendItem
	if s.cfg.Resume {
		w.visit = s.offerItem
	}
	if err := w.walk(); err != nil {
		return err
	}
	return s.decide()
}

// control sends a message that is not data.
func (s *sender) control(m *guestv1.UploadRequest) error {
	s.frame.Control = m
	defer func() { s.frame.Control = nil }()
	return s.sendFrame()
}

func (s *sender) sendFrame() error {
	if err := s.st.SendMsg(&s.frame); err != nil {
		return cut(err)
	}
	return nil
}

// begin numbers an entry.
func (s *sender) begin(e *guestv1.Entry) {
	s.number++
	e.Number = s.number
}

// note puts an entry among those that are under way.
func (s *sender) note(e *guestv1.Entry) {
	s.mu.Lock()
	s.sentEntry = e.Number
	s.underway = append(s.underway, &guestv1.Entry{Number: e.Number, Source: e.Source, Path: e.Path})
	s.mu.Unlock()
}

// failed tells both sides that a file cannot be sent.
func (s *sender) failed(e *guestv1.Entry, f *Failure) error {
	s.done(Done{Failure: f})
	if e.Number == 0 {
		// After those that have numbers, which are to be offered first.
		if err := s.decide(); err != nil {
			return err
		}
		s.begin(e)
	}
	if err := s.flush(); err != nil {
		return err
	}
	if err := s.room(0); err != nil {
		return err
	}
	s.note(e)
	return s.control(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Failure{Failure: f.message(e.Number)}})
}

// refuse returns why what is no file, directory or link is not sent.
func refuse(it *item) *Failure {
	f := newFailure("open", it.path, codes.FailedPrecondition, ReasonSpecial, "it is a %s", kindOf(it.entry.Mode))
	f.Remedy = "a device, FIFO or socket is not copied"
	return f
}

func kindOf(mode uint32) string {
	switch mode & modeType {
	case modeFIFO:
		return "FIFO"
	case modeSocket:
		return "socket"
	case modeChar, modeBlock:
		return "device"
	}
	return "file of no known type"
}

// sendItem sends one file.
func (s *sender) sendItem(it *item) error {
	if it.entry.Number == 0 {
		s.begin(it.entry)
	}
	switch it.entry.Mode & modeType {
	case modeRegular:
		if it.entry.HardLink == nil {
			return s.sendFile(it, nil)
		}
	case modeDir:
		if s.cfg.Options.GetArchive() {
			if f, err := it.open(); err == nil {
				s.xattrs(it, f)
				f.Close()
			}
		}
	case modeLink:
	default:
		return s.failed(it.entry, refuse(it))
	}
	return s.add(it.entry)
}

// add puts an entry, complete as it is, into the batch.
func (s *sender) add(e *guestv1.Entry) error {
	if err := s.room(uint64(len(e.Contents))); err != nil {
		return err
	}
	s.batch = append(s.batch, e)
	s.batchBytes += proto.Size(e)
	s.note(e)
	s.done(Done{Files: 1, Path: string(e.Path)})
	if len(s.batch) >= batchEntries || s.batchBytes >= batchBytes || s.starved() {
		return s.flush()
	}
	return nil
}

// starved reports whether the receiver has nothing left to do, so that the batch
// had better be sent as small as it is.
func (s *sender) starved() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ackEntry+uint64(len(s.batch)) >= s.sentEntry
}

// flush sends the batch.
func (s *sender) flush() error {
	if len(s.batch) == 0 {
		return nil
	}
	entries := s.batch
	s.batch, s.batchBytes = nil, 0
	return s.control(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Entries{Entries: &guestv1.Entries{Entries: entries}}})
}

// xattrs reads the extended attributes of an open file.
func (s *sender) xattrs(it *item, f *os.File) {
	e := it.entry
	names, values, err := listXattrs(f)
	if err != nil {
		s.done(Done{Failure: failed("listxattr", it.path, err)})
		return
	}
	size := 0
	for i, name := range names {
		if size += len(name) + len(values[i]); size > maxXattrs {
			s.done(Done{Failure: newFailure("listxattr", it.path, codes.ResourceExhausted, ReasonTooMany, "more than %d bytes of attributes", maxXattrs)})
			return
		}
		e.Xattrs = append(e.Xattrs, &guestv1.TransferXattr{Name: []byte(name), Value: values[i]})
	}
}

// maxXattrs bounds the extended attributes of one file.
const maxXattrs = 1 << 20

// sendFile sends a regular file, from where the receiver wants it.
func (s *sender) sendFile(it *item, want *guestv1.Wanted) error {
	if it.reader != nil {
		return s.sendReader(it)
	}
	f, err := it.open()
	if err != nil {
		return s.failed(it.entry, failed("open", it.path, err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return s.failed(it.entry, failed("stat", it.path, err))
	}
	if !info.Mode().IsRegular() {
		return s.failed(it.entry, newFailure("open", it.path, codes.FailedPrecondition, ReasonChanged, "it is no regular file any more"))
	}
	e := it.entry
	it.info = info
	e.Size, e.Mode = uint64(info.Size()), LinuxMode(info.Mode())
	setModified(e, info.ModTime())
	if s.cfg.Options.GetArchive() {
		s.xattrs(it, f)
	}
	if e.Size <= smallFile && want.GetOffset() == 0 {
		// A file of /proc has a size of 0, and contents.
		buf := make([]byte, e.Size+1)
		if e.Size == 0 {
			buf = make([]byte, 4<<10)
		}
		n, err := readSmall(f, buf, int(e.Size))
		if err != nil {
			return s.failed(e, failed("read", it.path, err))
		}
		switch {
		case uint64(n) == e.Size || e.Size == 0 && n < len(buf):
			setContents(e, buf[:n], s.crc)
			s.done(Done{Size: e.Size})
			return s.add(e)
		case uint64(n) < e.Size && sameSize(f, e.Size):
			// So it is in /sys: every file has the size of a page.
			setContents(e, buf[:n], s.crc)
			s.done(Done{Size: e.Size})
			return s.add(e)
		case uint64(n) < e.Size:
			return s.failed(e, shrunk(it.path, uint64(n), e.Size))
		case e.Size == 0:
			e.SizeUnknown = true
		}
	}
	if err := s.flush(); err != nil {
		return err
	}
	return s.stream(it, f, want)
}

func shrunk(path string, n, size uint64) *Failure {
	return newFailure("read", path, codes.Aborted, ReasonChanged, "it shrank from %d bytes to %d while it was read", size, n)
}

// sameSize reports whether the file still claims to have a size.
func sameSize(f *os.File, size uint64) bool {
	info, err := f.Stat()
	return err == nil && uint64(info.Size()) == size
}

// readSmall reads until buf is full or the file ends. A read that ends where the file
// is to end is the last one, although buf has room to show that it has grown.
func readSmall(f *os.File, buf []byte, size int) (n int, err error) {
	for n < len(buf) && err == nil {
		var k int
		k, err = f.Read(buf[n:])
		if n += k; n == size {
			break
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}
