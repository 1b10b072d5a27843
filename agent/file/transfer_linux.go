package file

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
	"github.com/vsockrpc/vsockrpc/internal/archive"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// maxTransfers bounds the transfers that are remembered.
const maxTransfers = 256

// transfer is a transfer, whether or not a call carries it now. What it
// remembers saves a reading of what was sent already; it is no loss if it is
// forgotten.
type transfer struct {
	memory  archive.Memory
	used    time.Time
	evict   chan struct{} // closed to end the call that carries it; nil: none does
	evicted bool
	idle    chan struct{} // closed when that has ended
}

// transferKey names a transfer: a caller cannot touch those of another.
type transferKey struct {
	account string
	id      [16]byte
}

// begin takes a transfer over for a call, from one that carries it on a
// connection which may be dead already. The caller must end it with finish.
func (s *Server) begin(ctx context.Context, key transferKey) (*transfer, error) {
	for {
		s.mu.Lock()
		t := s.transfers[key]
		if t == nil {
			s.forgetOldest()
			t = &transfer{}
			s.transfers[key] = t
		}
		if t.evict == nil {
			t.evict, t.idle, t.evicted, t.used = make(chan struct{}), make(chan struct{}), false, time.Now()
			s.mu.Unlock()
			return t, nil
		}
		if !t.evicted {
			t.evicted = true
			close(t.evict)
		}
		idle := t.idle
		s.mu.Unlock()
		select {
		case <-idle:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// forgetOldest makes room for another transfer: of the caller with the most that
// no call carries, it forgets the oldest. The caller holds mu.
func (s *Server) forgetOldest() {
	if len(s.transfers) < maxTransfers {
		return
	}
	n := make(map[string]int)
	for key, t := range s.transfers {
		if t.evict == nil {
			n[key.account]++
		}
	}
	var oldest transferKey
	var old *transfer
	for key, t := range s.transfers {
		if t.evict != nil {
			continue
		}
		if more := n[key.account] - n[oldest.account]; old == nil || more > 0 || more == 0 && t.used.Before(old.used) {
			oldest, old = key, t
		}
	}
	if old != nil {
		delete(s.transfers, oldest)
	}
}

// finish ends what begin began.
func (s *Server) finish(key transferKey, t *transfer, forget bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.evict = nil
	t.used = time.Now()
	close(t.idle)
	if forget && s.transfers[key] == t {
		delete(s.transfers, key)
	}
}

// carry runs a transfer until it ends or another call takes it over.
func (s *Server) carry(st archive.Stream, id []byte, run func(m *archive.Memory) error) error {
	if len(id) != 16 {
		return protocolFault("a transfer's id has 16 bytes")
	}
	key := transferKey{charge.From(st.Context()).ID, [16]byte(id)}
	t, err := s.begin(st.Context(), key)
	if err != nil {
		return err
	}
	evict := t.evict
	done := make(chan error, 1)
	go func() {
		err := run(&t.memory)
		// Only what was cut can be gone on with.
		s.finish(key, t, !errors.Is(err, archive.ErrCut))
		done <- err
	}()
	select {
	case err := <-done:
		if errors.Is(err, archive.ErrCut) {
			return fault.New(codes.Unavailable, reasonCut, "%v", err).Hint("the copy can be gone on with")
		}
		return err
	case <-evict:
		// Returning ends the stream, and with that the run.
		return fault.New(codes.Aborted, reasonTakenOver, "another call has taken over the transfer")
	}
}

// Upload receives files.
func (s *Server) Upload(st guestv1.FileService_UploadServer) error {
	first, err := st.Recv()
	if err != nil {
		return err
	}
	o := first.GetOpen()
	if o == nil {
		return protocolFault("the first message of Upload is not open")
	}
	if len(o.Names) == 0 || len(o.Names) > maxSources {
		return protocolFault("an upload has 1 to 65536 sources")
	}
	return s.carry(st, o.TransferId, func(memory *archive.Memory) error {
		return s.with(st.Context(), "write", o.Subject, o.Destination, func(t tree, path string) error {
			cfg := &archive.ReceiveConfig{
				Transfer: ownTransfer(st.Context(), [16]byte(o.TransferId)), Destination: path, Root: t.root, Options: o.Options,
				Resume: o.Resume, Skip: o.Resume && !o.Replace, Memory: memory, Attempt: o.Attempt, Trusted: true, Denied: t.denies(),
				MaxEntries: 1 << 62, MaxBytes: 1 << 62,
				Xattr: func(string) bool { return true },
			}
			for _, name := range o.Names {
				cfg.Names = append(cfg.Names, string(name))
			}
			a, err := s.accounts.Find(string(o.GetSubject().GetUser()), string(o.GetSubject().GetGroup()))
			if err != nil {
				return accountFault(err)
			}
			if a.UID == 0 && os.Geteuid() == 0 {
				cfg.Owner = s.owners()
			} else {
				// What only root may set.
				cfg.Xattr = func(name string) bool { return len(name) > 5 && name[:5] == "user." }
			}
			_, err = archive.Receive(st, cfg)
			return err
		})
	})
}

// ownTransfer returns the id that a transfer of the call's account has in the names of
// its unfinished files. Ids are made of what is copied, so others can have the same.
func ownTransfer(ctx context.Context, id [16]byte) [16]byte {
	account := charge.From(ctx).ID
	if account == "" {
		return id
	}
	sum := sha256.Sum256(append(id[:], account...))
	return [16]byte(sum[:])
}

// maxSources bounds the sources of one transfer, maxExclude the patterns of files to
// leave out, each of which is matched with every name.
const (
	maxSources = 1 << 16
	maxExclude = 1000
)

// owners returns who is to own a file: the user and group with the sender's
// names, where there are such here, otherwise those with the sender's numbers.
func (s *Server) owners() func(e *guestv1.Entry) (uid, gid int) {
	users, groups := byName(s.accounts.UserNames()), byName(s.accounts.GroupNames())
	return func(e *guestv1.Entry) (int, int) {
		uid, gid := e.Uid, e.Gid
		if id, ok := users[string(e.User)]; ok && len(e.User) > 0 {
			uid = id
		}
		if id, ok := groups[string(e.Group)]; ok && len(e.Group) > 0 {
			gid = id
		}
		return int(uid), int(gid)
	}
}

func byName(names map[uint32]string) map[string]uint32 {
	ids := make(map[string]uint32, len(names))
	for id, name := range names {
		if other, ok := ids[name]; !ok || id < other {
			ids[name] = id
		}
	}
	return ids
}

// Download sends files.
func (s *Server) Download(st guestv1.FileService_DownloadServer) error {
	first, err := st.Recv()
	if err != nil {
		return err
	}
	o := first.GetOpen()
	if o == nil {
		return protocolFault("the first message of Download is not open")
	}
	if len(o.Sources) == 0 || len(o.Sources) > maxSources {
		return protocolFault("a download has 1 to 65536 sources")
	}
	if len(o.Options.GetExclude()) > maxExclude {
		return protocolFault("a download has at most 1000 patterns to exclude")
	}
	if o.After != nil && int(o.After.Source) >= len(o.Sources) {
		return protocolFault("the position is of no source")
	}
	return s.carry(st, o.TransferId, func(memory *archive.Memory) error {
		return s.with(st.Context(), "read", o.Subject, o.Sources[0].Path, func(t tree, _ string) error {
			cfg := &archive.SendConfig{Root: t.root, Denied: t.denies(), Options: o.Options, Resume: o.Resume, After: o.After, Memory: memory}
			for _, src := range o.Sources {
				path, err := t.path(src.Path)
				if err != nil {
					return toFault("open", src.Path, err)
				}
				cfg.Sources = append(cfg.Sources, archive.Source{Path: path, Contents: src.Contents})
			}
			if o.Options.GetArchive() {
				n := &names{s: s}
				cfg.Names = archive.Names{User: n.user, Group: n.group}
			}
			_, err := archive.Send(st, cfg)
			return err
		})
	})
}
