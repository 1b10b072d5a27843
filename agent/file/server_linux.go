package file

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"

	"github.com/vsockrpc/vsockrpc/agent/internal/account"
	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

const errIsDir = syscall.EISDIR

// Config says how a Server is. The zero value of every field is its default.
type Config struct {
	// Logger gets the records. Default: slog.Default().
	Logger *slog.Logger
	// Root, if not empty, is the directory that the service is confined to: paths
	// are resolved beneath it, "/" is the directory itself, and links that lead
	// out of it, absolute ones among them, are refused.
	Root string
	// MaxCalls bounds the calls that hold a file, a directory or a thread, all
	// together. Default: 1024.
	MaxCalls int
}

// Server implements guest.v1.FileService. It is made by NewServer and safe for
// concurrent use.
type Server struct {
	guestv1.UnimplementedFileServiceServer
	log      *slog.Logger
	root     *os.Root
	rootFile *os.File // the directory of root
	accounts account.Files
	calls    *charge.Pool
	watches  *charge.Pool // directories that calls watch
	watching watchRoom

	mu        sync.Mutex
	left      map[uint32]int // calls that were left behind, by the user they act as
	transfers map[transferKey]*transfer
}

var _ guestv1.FileServiceServer = (*Server)(nil)

// NewServer returns a Server; a nil cfg means the defaults. It fails if
// Config.Root cannot be opened. The caller must Close it, which does not end
// calls that are open.
func NewServer(cfg *Config) (*Server, error) {
	if cfg == nil {
		cfg = &Config{}
	}
	s := &Server{log: cfg.Logger, transfers: make(map[transferKey]*transfer), left: make(map[uint32]int), watching: newWatchRoom()}
	if s.log == nil {
		s.log = slog.Default()
	}
	if cfg.Root != "" {
		root, err := os.OpenRoot(cfg.Root)
		if err != nil {
			return nil, fmt.Errorf("root of the file service: %w", err)
		}
		s.root = root
		if s.rootFile, err = root.Open("."); err != nil {
			root.Close()
			return nil, fmt.Errorf("root of the file service: %w", err)
		}
	}
	n := cfg.MaxCalls
	if n == 0 {
		n = 1024
	}
	s.calls, s.watches = charge.NewPool(int64(n)), charge.NewPool(int64(half(inotifyLimits+"max_user_watches", maxWatchesTotal)))
	return s, nil
}

// Close gives Config.Root back.
func (s *Server) Close() error {
	if s.root == nil {
		return nil
	}
	return errors.Join(s.root.Close(), s.rootFile.Close())
}

// with calls f as a subject with a resolved path, within the bound on calls. If ctx
// ends before f does, f goes on without a caller: it must write nothing that is read
// after an error.
func (s *Server) with(ctx context.Context, op string, subject *guestv1.Subject, path []byte, f func(t tree, path string) error) error {
	a, err := s.account(subject)
	if err != nil {
		return err
	}
	return toFault(op, path, s.as(ctx, a, func(t tree) error {
		t, err := t.confine(ctx, path)
		if err != nil {
			return err
		}
		defer t.release()
		p, err := t.path(path)
		if err != nil {
			return err
		}
		return f(t, p)
	}))
}
