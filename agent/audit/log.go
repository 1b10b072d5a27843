package audit

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Defaults of Config.
const (
	DefaultMaxBytes = 16 << 20
	DefaultKeep     = 4
)

// Config says where records go.
type Config struct {
	// Writer, if not nil, gets the records, each with one Write. Otherwise they
	// go to the file Path.
	Writer io.Writer
	Path   string
	// MaxBytes is how large the file may become before it is renamed to
	// Path.1, that to Path.2, and so on. 0 means 16 MiB.
	MaxBytes int64
	// Keep is how many of those are kept. 0 means 4.
	Keep int
	// Logger is told when records cannot be written. Default: slog.Default().
	Logger *slog.Logger
}

// Log writes records. Its methods may be called concurrently. A nil Log writes
// nothing.
type Log struct {
	cfg  Config
	mu   sync.Mutex
	file *os.File
	size int64
	lost uint64    // records that could not be written since the last one that could
	told time.Time // when that was logged last
}

// New opens the log. The caller closes it.
func New(cfg Config) (*Log, error) {
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = DefaultMaxBytes
	}
	if cfg.Keep <= 0 {
		cfg.Keep = DefaultKeep
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	l := &Log{cfg: cfg}
	if cfg.Writer != nil {
		return l, nil
	}
	return l, l.open()
}

// open opens the file. mu is held, or nobody else has l yet.
func (l *Log) open() error {
	f, err := os.OpenFile(l.cfg.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("audit: %w", err)
	}
	l.file, l.size = f, fi.Size()
	return nil
}

// Write writes a record, which it redacts, as a line of at most MaxLine bytes. A
// record that cannot be written is counted, and the log told.
func (l *Log) Write(r Record) {
	if l == nil {
		return
	}
	line, err := r.line()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		err = l.write(line)
	}
	if err != nil {
		l.lost++
		if now := time.Now(); now.Sub(l.told) >= time.Minute {
			l.told = now
			l.cfg.Logger.Error("audit: records are lost", "err", err, "lost", l.lost)
		}
		return
	}
	if l.lost > 0 {
		l.cfg.Logger.Error("audit: records are written again", "lost", l.lost)
		l.lost = 0
	}
}

// write writes a line. mu is held.
func (l *Log) write(line []byte) error {
	if l.cfg.Writer != nil {
		_, err := l.cfg.Writer.Write(line)
		return err
	}
	if l.file != nil && l.size > 0 && l.size+int64(len(line)) > l.cfg.MaxBytes {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	if l.file == nil {
		if err := l.open(); err != nil {
			return err
		}
	}
	n, err := l.file.Write(line)
	l.size += int64(n)
	return err
}

// rotate renames the files. mu is held.
func (l *Log) rotate() error {
	l.file.Close()
	l.file = nil
	name := func(i int) string { return fmt.Sprintf("%s.%d", l.cfg.Path, i) }
	for i := l.cfg.Keep; i > 1; i-- {
		if err := os.Rename(name(i-1), name(i)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return os.Rename(l.cfg.Path, name(1))
}

// Close closes the file. Records that are written afterwards open it again.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// Path returns where the records go, for people.
func (l *Log) Path() string {
	if l.cfg.Writer != nil {
		return "stream"
	}
	return filepath.Clean(l.cfg.Path)
}
