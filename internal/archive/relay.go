package archive

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/internal/bulk"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// RelayConfig is what Relay lets pass.
type RelayConfig struct {
	// Names are those of the upload's opening message.
	Names []string
	// OutsideLinks allows symbolic links to lead out of the destination.
	OutsideLinks bool
	// Archive lets owners and extended attributes pass, as it does in the options of
	// the opening messages.
	Archive bool
	// Xattr reports whether an extended attribute may pass. nil: none.
	Xattr func(name string) bool

	Memory *Memory // of earlier tries; nil for none
	// The most that is taken, in all tries that share a Memory.
	MaxEntries uint64 // 0: DefaultMaxEntries
	MaxBytes   uint64 // 0: DefaultMaxBytes

	// OnDone is as in SendConfig. It may be called by two goroutines at once.
	OnDone func(Done)
}

// RelayError is an error of one side of a relayed transfer.
type RelayError struct {
	Sender bool // otherwise the receiver
	Err    error
}

// Error returns the text of the cause.
func (e *RelayError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *RelayError) Unwrap() error { return e.Err }

// relayPatience is how long an end of one side waits for the reason, which that
// side's other direction learns, unless it is stuck with the other side.
const relayPatience = 10 * time.Second

// Relay passes a transfer on, from a download to an upload: both have the same
// messages, and have exchanged their opening ones. Flow control, and what both
// sides agree on after a cut, are theirs; nothing is kept here but the names of
// what is under way. The sender is not trusted, whereas the receiver may take
// all from this side: links that lead out of the destination are refused here,
// and only the attributes pass that the configuration allows.
//
// cancel ends both streams; Relay calls it when one of them has failed. Errors
// of the streams are RelayErrors.
func Relay(from, to Stream, cancel context.CancelFunc, cfg *RelayConfig) (*guestv1.Finished, error) {
	r := &relay{from: from, to: to, cfg: cfg, cancel: cancel}
	memory := cfg.Memory
	if memory == nil {
		memory = &Memory{}
	}
	r.limits.left = memory.allowance(cfg.MaxEntries, cfg.MaxBytes)
	back := make(chan struct{})
	go func() {
		defer close(back)
		r.stop(r.backward())
	}()
	r.stop(r.forward())
	<-back
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil && r.finished == nil {
		r.err = &RelayError{Err: cut(io.EOF)}
	}
	if r.err != nil {
		return nil, r.err
	}
	return r.finished, nil
}

type relay struct {
	from, to Stream
	cfg      *RelayConfig
	cancel   context.CancelFunc
	limits   receiver // its counters alone

	mu            sync.Mutex
	err           error
	underway      []underway
	underwayBytes int      // of paths in it
	offered       underway // the last entry of an offer that is not decided on
	sent          uint64   // bytes of contents
	acked         uint64
	finished      *guestv1.Finished
}

// underway is an entry that was passed on and not acknowledged.
type underway struct {
	number   uint64
	position *guestv1.Position
}

// errReasonElsewhere says that the other direction learns why.
var errReasonElsewhere = errors.New("the stream has ended")

// stop notes how one direction ended. The first reason counts.
func (r *relay) stop(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil:
	case errors.Is(err, errReasonElsewhere):
		if r.err == nil {
			time.AfterFunc(relayPatience, r.cancel)
		}
	default:
		if r.err == nil {
			r.err = err
		}
		r.cancel()
	}
}

func (r *relay) done(d Done) {
	if r.cfg.OnDone != nil {
		r.cfg.OnDone(d)
	}
}

// sendErr is what a failed SendMsg means.
func sendErr(sender bool, err error) error {
	if errors.Is(err, io.EOF) {
		return errReasonElsewhere
	}
	return &RelayError{Sender: sender, Err: cut(err)}
}

// backward passes on what the receiver says.
func (r *relay) backward() error {
	for {
		m := new(guestv1.UploadResponse)
		if err := r.to.RecvMsg(m); err != nil {
			return &RelayError{Err: cut(err)}
		}
		switch m := m.Message.(type) {
		case *guestv1.UploadResponse_Open:
			return &RelayError{Err: protocolFailure("an opening message")}
		case *guestv1.UploadResponse_Acknowledge:
			r.acknowledged(m.Acknowledge)
		case *guestv1.UploadResponse_Decision:
			r.decided(m.Decision)
		case *guestv1.UploadResponse_Failure:
			r.done(Done{Failure: FailureOf(m.Failure), Remote: true})
		case *guestv1.UploadResponse_Finished:
			r.mu.Lock()
			r.finished = m.Finished
			all := &guestv1.Acknowledge{Bytes: r.sent}
			r.mu.Unlock()
			r.acknowledged(all)
		}
		if err := r.from.SendMsg(m); err != nil {
			return sendErr(true, err)
		}
		if m.GetFinished() != nil {
			return nil
		}
	}
}

func (r *relay) acknowledged(a *guestv1.Acknowledge) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var d Done
	if n := min(a.GetBytes(), r.sent); n > r.acked {
		d.Bytes, r.acked = n-r.acked, n
	}
	n := 0
	for n < len(r.underway) && r.underway[n].number <= a.GetEntries() {
		d.Position = r.underway[n].position
		r.underwayBytes -= len(d.Position.Path)
		n++
	}
	clear(r.underway[:n])
	r.underway = r.underway[n:]
	r.done(d)
}

// decided notes that all up to an offer's end is there, if it is.
func (r *relay) decided(d *guestv1.Decision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(d.GetWanted()) == 0 && len(r.underway) == 0 && r.offered.position != nil {
		r.done(Done{Position: r.offered.position})
	}
}

// forward passes on what the sender sends.
func (r *relay) forward() error {
	frame := newSenderFrame()
	defer frame.Free()
	for {
		frame.Control = nil
		if err := r.from.RecvMsg(frame); err != nil {
			r.mu.Lock()
			finished := r.finished != nil
			r.mu.Unlock()
			if finished && errors.Is(err, io.EOF) {
				return nil
			}
			return &RelayError{Sender: true, Err: cut(err)}
		}
		failures, err := r.check(frame)
		if err != nil {
			return &RelayError{Sender: true, Err: err}
		}
		// The entries around one that is refused keep their order.
		for _, m := range failures {
			if err := r.to.SendMsg(m); err != nil {
				return sendErr(false, err)
			}
		}
		if failures == nil {
			if err := r.to.SendMsg(frame); err != nil {
				return sendErr(false, err)
			}
		}
	}
}

// check looks at a message of the sender. If it is to be replaced it returns the
// messages to send in its place.
func (r *relay) check(frame *bulk.Frame) ([]proto.Message, error) {
	if frame.IsData() {
		n := uint64(len(frame.Data))
		r.mu.Lock()
		r.sent += n
		r.mu.Unlock()
		if n > 4*PieceBytes {
			return nil, protocolFailure("a piece of %d bytes", n)
		}
		if n == 0 {
			if err := r.limits.count(1); err != nil {
				return nil, err
			}
		}
		hole := min(frame.Varints[pieceHole], maxHole)
		if hole > 0 {
			r.done(Done{Bytes: hole})
		}
		return nil, r.limits.consume(n + hole)
	}
	switch m := frame.Control.(*guestv1.UploadRequest).Message.(type) {
	case *guestv1.UploadRequest_Open:
		return nil, protocolFailure("a second opening message")
	case *guestv1.UploadRequest_Entries:
		return r.entries(m.Entries.GetEntries())
	case *guestv1.UploadRequest_File:
		e := m.File.GetEntry()
		if err := r.keepAsked(e); err != nil {
			return nil, err
		}
		r.done(Done{Files: 1, Path: string(e.GetPath()), Size: e.GetSize() - min(m.File.GetOffset(), e.GetSize())})
		return nil, r.note(e, 0)
	case *guestv1.UploadRequest_Offer:
		entries := m.Offer.GetEntries()
		for _, e := range entries {
			if err := r.keepAsked(e); err != nil {
				return nil, err
			}
		}
		if n := len(entries); n > 0 {
			r.mu.Lock()
			r.offered = underway{entries[n-1].GetNumber(), positionOf(entries[n-1])}
			r.mu.Unlock()
		}
		return nil, r.limits.count(uint64(max(len(entries), 1)))
	case *guestv1.UploadRequest_Failure:
		r.done(Done{Failure: FailureOf(m.Failure), Remote: true, Sender: true})
		return nil, r.limits.count(1)
	}
	return nil, r.limits.count(1)
}

func positionOf(e *guestv1.Entry) *guestv1.Position {
	return &guestv1.Position{Source: e.GetSource(), Path: bytes.Clone(e.GetPath())}
}

// maxUnderwayBytes bounds the paths of the entries that are under way.
const maxUnderwayBytes = 8 << 20

// note puts an entry among those that are under way, with its path in memory of its
// own.
func (r *relay) note(e *guestv1.Entry, contents uint64) error {
	if err := errors.Join(r.limits.count(1), r.limits.consume(contents)); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent += contents
	if len(r.underway) > maxUnderway {
		return protocolFailure("more than %d entries under way", maxUnderway)
	}
	if r.underwayBytes += len(e.GetPath()); r.underwayBytes > maxUnderwayBytes {
		return &Failure{Code: codes.ResourceExhausted, Reason: ReasonTooManyBytes, Text: "the paths of the entries under way are longer than the limit"}
	}
	r.underway = append(r.underway, underway{e.GetNumber(), positionOf(e)})
	return nil
}

// keepAsked takes out of an entry what may not pass.
func (r *relay) keepAsked(e *guestv1.Entry) error {
	if len(e.GetPath()) > maxPath || len(e.GetLinkTarget()) > maxTarget || len(e.GetHardLink().GetPath()) > maxPath {
		return protocolFailure("a path of %d bytes", max(len(e.GetPath()), len(e.GetLinkTarget()), len(e.GetHardLink().GetPath())))
	}
	if !r.cfg.Archive {
		e.User, e.Group, e.Xattrs = nil, nil, nil
		return nil
	}
	return keepXattrs(e, r.cfg.Xattr)
}

// entries checks a batch of entries. If one is refused the batch is split, with
// a failure in its place.
func (r *relay) entries(all []*guestv1.Entry) ([]proto.Message, error) {
	var messages []proto.Message
	var batch []*guestv1.Entry
	flush := func() {
		if len(batch) > 0 {
			messages = append(messages, &guestv1.UploadRequest{Message: &guestv1.UploadRequest_Entries{Entries: &guestv1.Entries{Entries: batch}}})
			batch = nil
		}
	}
	for _, e := range all {
		if err := r.keepAsked(e); err != nil {
			return nil, err
		}
		if err := r.note(e, uint64(len(e.GetContents()))); err != nil {
			return nil, err
		}
		r.done(Done{Files: 1, Size: uint64(len(e.GetContents())), Path: string(e.GetPath())})
		f := r.refuse(e)
		if f == nil {
			batch = append(batch, e)
			continue
		}
		r.done(Done{Failure: f})
		flush()
		messages = append(messages, &guestv1.UploadRequest{Message: &guestv1.UploadRequest_Failure{Failure: f.message(e.GetNumber())}})
	}
	if len(all) == 0 {
		return nil, r.limits.count(1)
	}
	if messages == nil {
		return nil, nil // as it came
	}
	flush()
	return messages, nil
}

// refuse returns why an entry may not pass, or nil.
func (r *relay) refuse(e *guestv1.Entry) *Failure {
	if e.GetMode()&modeType != modeLink || e.GetHardLink() != nil || r.cfg.OutsideLinks {
		return nil
	}
	depth := strings.Count(string(e.GetPath()), "/")
	if int(e.GetSource()) < len(r.cfg.Names) && r.cfg.Names[e.GetSource()] != "" && len(e.GetPath()) > 0 {
		depth++
	}
	return outsideLink(depth, string(e.GetPath()), e.GetLinkTarget())
}

// outsideLink returns why a symbolic link in a directory so many levels below
// the destination is not made, or nil.
func outsideLink(depth int, path string, target []byte) *Failure {
	if staysInside(depth, target) {
		return nil
	}
	f := newFailure("symlink", path, codes.PermissionDenied, ReasonLinkOutside, "it leads to %s, outside of the destination", target)
	f.Remedy = "copy what it leads to (-L), or allow such links (--outside-links)"
	return f
}
