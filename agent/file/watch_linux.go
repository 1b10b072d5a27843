package file

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

const watchMask = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | unix.IN_DELETE | unix.IN_DELETE_SELF |
	unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_MOVE_SELF

// maxWatches bounds the directories of one call, and maxWatchesTotal those of all.
const (
	maxWatches      = 100_000
	maxWatchesTotal = 400_000
)

// Watch streams what happens to a file or directory.
func (s *Server) Watch(r *guestv1.WatchRequest, st grpc.ServerStreamingServer[guestv1.WatchResponse]) error {
	a, err := s.account(r.Subject)
	if err != nil {
		return err
	}
	return s.with(st.Context(), "watch", r.Subject, r.Path, func(t tree, path string) error {
		info, err := t.stat(path, true)
		if err != nil {
			return err
		}
		if !info.IsDir() && !info.Mode().IsRegular() {
			return specialFault("watch", r.Path, info.Mode())
		}
		leave, err := s.watching.enter(a.UID)
		if err != nil {
			return err
		}
		defer leave()
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return fmt.Errorf("inotify: %w", err)
		}
		w := &watcher{pool: s.watches, account: charge.From(st.Context()), tree: t, path: path, recursive: r.Recursive, fd: fd, paths: make(map[int]string)}
		events := os.NewFile(uintptr(fd), "inotify")
		defer events.Close()
		defer w.giveAll()
		if info.IsDir() {
			root, err := t.openRoot(path)
			if err != nil {
				return err
			}
			w.left, err = leaveOut(t, root)
			root.Close()
			if err != nil {
				return err
			}
		}
		if err := w.add("", info.IsDir()); err != nil {
			return err
		}
		stop := context.AfterFunc(st.Context(), func() { events.Close() })
		defer stop()
		if err := st.Send(&guestv1.WatchResponse{}); err != nil {
			return err
		}
		buf := make([]byte, 64<<10)
		for {
			n, err := events.Read(buf)
			if err != nil {
				if ctxErr := st.Context().Err(); ctxErr != nil {
					return ctxErr
				}
				return fmt.Errorf("inotify: %w", err)
			}
			m := &guestv1.WatchResponse{Events: w.allowed(w.take(buf[:n]))}
			if len(m.Events) == 0 {
				continue
			}
			if err := st.Send(m); err != nil {
				return err
			}
		}
	})
}

// watcher turns inotify's events into ours. It runs as the subject.
type watcher struct {
	pool      *charge.Pool
	account   charge.Account
	taken     int64 // from pool: at least as many as there are paths
	tree      tree
	path      string // what is watched
	recursive bool
	fd        int
	paths     map[int]string // of watches, below path
	left      leftOut
}

// allowed leaves out what concerns denied files alone. A renaming from or to one is
// a creation, or a removal.
func (w *watcher) allowed(events []*guestv1.FileEvent) []*guestv1.FileEvent {
	if w.left.denies == nil {
		return events
	}
	return slices.DeleteFunc(events, func(e *guestv1.FileEvent) bool {
		from := len(e.Path) > 0 && w.left.has(string(e.Path))
		if e.Kind != guestv1.FileEventKind_FILE_EVENT_KIND_RENAMED {
			return from
		}
		to := w.left.has(string(e.NewPath))
		switch {
		case from && to:
			return true
		case from:
			e.Kind, e.Path, e.NewPath = guestv1.FileEventKind_FILE_EVENT_KIND_CREATED, e.NewPath, nil
		case to:
			e.Kind, e.NewPath = guestv1.FileEventKind_FILE_EVENT_KIND_REMOVED, nil
		}
		return false
	})
}

// full returns the path of what is below the one that is watched.
func (w *watcher) full(below string) string {
	if below == "" {
		return w.path
	}
	return strings.TrimRight(w.path, "/") + "/" + below
}

// chargeNext charges one more watch than there are paths.
func (w *watcher) chargeNext() *charge.Refusal {
	if w.taken > int64(len(w.paths)) {
		return nil
	}
	r := w.pool.Take(w.account, 1)
	if r == nil {
		w.taken++
	}
	return r
}

// giveAll gives back what was charged.
func (w *watcher) giveAll() { w.pool.Give(w.account, w.taken) }

// add watches a directory, or a file, and with recursive the directories below.
// The directory is opened with the subject's rights; the watch is put on what is
// open, so that nobody can swap it.
func (w *watcher) add(below string, isDir bool) error {
	if below != "" && w.left.has(below) {
		return nil
	}
	if len(w.paths) >= maxWatches {
		return fault.New(codes.ResourceExhausted, "watches-exhausted", "more than %d directories to watch", maxWatches)
	}
	if r := w.chargeNext(); r != nil {
		return fault.New(codes.ResourceExhausted, "watches-exhausted", "too many directories to watch: %v", r).On("watch", "", nil).
			Hint("watch less")
	}
	flags := os.O_RDONLY
	if below != "" {
		flags |= unix.O_NOFOLLOW
	}
	f, err := w.tree.open(w.full(below), flags, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// What is open, not what has the name by now.
	wd, err := unix.InotifyAddWatch(w.fd, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), watchMask)
	if errors.Is(err, unix.ENOSPC) {
		return fault.New(codes.ResourceExhausted, "watches-exhausted", "the guest has no more inotify watches").On("watch", below, err).
			Hint("raise fs.inotify.max_user_watches, or watch less")
	}
	if err != nil {
		return &fs.PathError{Op: "watch", Path: w.full(below), Err: err}
	}
	w.paths[wd] = below
	if !isDir || !w.recursive {
		return nil
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := join(below, name)
		if info, err := w.tree.stat(w.full(path), false); err == nil && info.IsDir() {
			if err := w.add(path, true); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
				return err
			}
		}
	}
	return nil
}

// rawEvent is inotify(7)'s.
type rawEvent struct {
	wd     int
	mask   uint32
	cookie uint32
	name   string
}

func parseEvents(b []byte) []rawEvent {
	var events []rawEvent
	for len(b) >= unix.SizeofInotifyEvent {
		n := int(binary.NativeEndian.Uint32(b[12:]))
		end := unix.SizeofInotifyEvent + n
		if end > len(b) {
			break
		}
		events = append(events, rawEvent{
			wd: int(int32(binary.NativeEndian.Uint32(b))), mask: binary.NativeEndian.Uint32(b[4:]), cookie: binary.NativeEndian.Uint32(b[8:]),
			name: strings.TrimRight(string(b[unix.SizeofInotifyEvent:end]), "\x00"),
		})
		b = b[end:]
	}
	return events
}

// take makes events of what was read. The two halves of a renaming come together
// as a rule; halves that do not are a removal and a creation, which is as true.
func (w *watcher) take(b []byte) []*guestv1.FileEvent {
	var out []*guestv1.FileEvent
	raw := parseEvents(b)
	for i := 0; i < len(raw); i++ {
		e := raw[i]
		if e.mask&unix.IN_Q_OVERFLOW != 0 {
			out = append(out, &guestv1.FileEvent{Kind: guestv1.FileEventKind_FILE_EVENT_KIND_OVERFLOW})
			// Directories may have come that nobody told of.
			if w.recursive {
				_ = w.add("", true) // whoever looks again sees what is wrong
			}
			continue
		}
		dir, ok := w.paths[e.wd]
		if e.mask&unix.IN_IGNORED != 0 {
			delete(w.paths, e.wd)
			continue
		}
		if !ok {
			continue
		}
		path := dir
		if e.name != "" {
			path = join(dir, e.name)
		}
		ev := &guestv1.FileEvent{Path: []byte(path), Directory: e.mask&unix.IN_ISDIR != 0}
		switch {
		case e.mask&unix.IN_MOVED_FROM != 0 && i+1 < len(raw) && raw[i+1].mask&unix.IN_MOVED_TO != 0 && raw[i+1].cookie == e.cookie:
			i++
			to := join(w.paths[raw[i].wd], raw[i].name)
			ev.Kind, ev.NewPath = guestv1.FileEventKind_FILE_EVENT_KIND_RENAMED, []byte(to)
			w.moved(path, to)
		case e.mask&unix.IN_MOVED_FROM != 0:
			ev.Kind = guestv1.FileEventKind_FILE_EVENT_KIND_REMOVED
			w.gone(path)
		case e.mask&unix.IN_DELETE != 0:
			ev.Kind = guestv1.FileEventKind_FILE_EVENT_KIND_REMOVED
		case e.mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF) != 0:
			if dir != "" {
				continue // its directory tells
			}
			ev.Kind = guestv1.FileEventKind_FILE_EVENT_KIND_REMOVED
		case e.mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0:
			ev.Kind = guestv1.FileEventKind_FILE_EVENT_KIND_CREATED
			out = append(out, ev)
			if ev.Directory && w.recursive {
				out = w.created(out, path)
			}
			continue
		case e.mask&unix.IN_MODIFY != 0:
			ev.Kind = guestv1.FileEventKind_FILE_EVENT_KIND_MODIFIED
		case e.mask&unix.IN_CLOSE_WRITE != 0:
			ev.Kind = guestv1.FileEventKind_FILE_EVENT_KIND_CLOSED
		case e.mask&unix.IN_ATTRIB != 0:
			ev.Kind = guestv1.FileEventKind_FILE_EVENT_KIND_ATTRIBUTES
		default:
			continue
		}
		out = append(out, ev)
	}
	return out
}

// created watches a new directory, and tells of what was made in it before that.
func (w *watcher) created(out []*guestv1.FileEvent, path string) []*guestv1.FileEvent {
	if w.left.has(path) {
		return out
	}
	if err := w.add(path, true); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return out
		}
		// What happens in it is lost.
		return append(out, &guestv1.FileEvent{Kind: guestv1.FileEventKind_FILE_EVENT_KIND_OVERFLOW, Path: []byte(path)})
	}
	f, err := w.tree.open(w.full(path), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return out
	}
	names, _ := f.Readdirnames(-1) // as many as there are
	f.Close()
	for _, name := range names {
		below := join(path, name)
		info, err := w.tree.stat(w.full(below), false)
		if err != nil {
			continue
		}
		out = append(out, &guestv1.FileEvent{Kind: guestv1.FileEventKind_FILE_EVENT_KIND_CREATED, Path: []byte(below), Directory: info.IsDir()})
		if info.IsDir() {
			out = w.created(out, below)
		}
	}
	return out
}

// moved changes the paths of watches below a directory that was renamed.
func (w *watcher) moved(from, to string) {
	for wd, p := range w.paths {
		if p == from || strings.HasPrefix(p, from+"/") {
			w.paths[wd] = to + p[len(from):]
		}
	}
}

// gone ends the watches below a directory that was moved away.
func (w *watcher) gone(path string) {
	for wd, p := range w.paths {
		if p == path || strings.HasPrefix(p, path+"/") {
			delete(w.paths, wd)
			_, _ = unix.InotifyRmWatch(w.fd, uint32(wd)) // it may be gone already
		}
	}
}
