package access

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/vsockrpc/vsockrpc/internal/keys"
	"github.com/vsockrpc/vsockrpc/internal/reload"
)

// HostsConfig says where an agent finds the keys of hosts that may call. All of
// it is optional. The format everywhere is that of an authorized_hosts file:
// docs/security.md has it.
type HostsConfig struct {
	// Files are read again when they change. They need not exist, and must not
	// be writable for others than root and the agent's user.
	Files []string
	// Fixed holds keys that stay for this run of the agent, by where they are
	// from: a word for people, such as "kernel command line".
	Fixed map[string][]byte
	// StateFile keeps what callers add and revoke. Without one, or if it cannot
	// be written, that lasts as long as the agent runs.
	StateFile string
	// Logger is told of files that have changed. Default: slog.Default().
	Logger *slog.Logger
}

// Hosts are the keys of hosts that may call. A key that is revoked anywhere is
// refused, whatever else is said about it; otherwise what callers have added
// counts before what the configuration says. All methods may be called
// concurrently.
type Hosts struct {
	files     []*reload.File[*hostList]
	fixed     []*hostList
	stateFile string

	mu    sync.RWMutex
	state *hostList
	// lost says why the state cannot be known. Then no key is known either: it
	// could be one that was revoked.
	lost error
}

// hostList is one source of keys.
type hostList struct {
	source string
	hosts  []keys.Host
	byKey  map[keys.Public]int // the first line with a key; one that revokes it, if any
}

func newHostList(source string, hosts []keys.Host) *hostList {
	l := &hostList{source: source, hosts: hosts, byKey: make(map[keys.Public]int, len(hosts))}
	for i, h := range hosts {
		if _, ok := l.byKey[h.Key]; !ok || h.Revoked {
			l.byKey[h.Key] = i
		}
	}
	return l
}

func parseHostList(source string, text []byte) (*hostList, error) {
	hosts, err := keys.ParseHosts(text)
	if err != nil {
		return nil, err
	}
	return newHostList(source, hosts), nil
}

// KeyStatus is what Hosts know of a key.
type KeyStatus int

// The values of KeyStatus.
const (
	KeyUnknown KeyStatus = iota
	KeyKnown
	KeyRevoked
)

// NewHosts reads the keys. The error joins what is wrong with fixed keys; the
// Hosts are of use all the same, without those.
func NewHosts(cfg *HostsConfig) (*Hosts, error) {
	log := cfg.Logger
	if log == nil {
		log = slog.Default()
	}
	h := &Hosts{stateFile: cfg.StateFile, state: newHostList(cfg.StateFile, nil)}
	for _, path := range cfg.Files {
		h.files = append(h.files, reload.New(path,
			func(data []byte) (*hostList, error) { return parseHostList(path, data) },
			func(err error) {
				if err != nil {
					log.Error("authorized hosts: the file is broken; what it said before is in force", "err", err)
				} else {
					log.Info("authorized hosts: the file has changed", "path", path)
				}
			}))
	}
	var errs []error
	for source, text := range cfg.Fixed {
		l, err := parseHostList(source, text)
		if err != nil {
			errs = append(errs, fmt.Errorf("authorized hosts from the %s: %w", source, err))
			continue
		}
		h.fixed = append(h.fixed, l)
	}
	slices.SortFunc(h.fixed, func(a, b *hostList) int { return bytes.Compare([]byte(a.source), []byte(b.source)) })
	if cfg.StateFile != "" {
		if err := h.readState(); err != nil {
			h.lost = fmt.Errorf("authorized hosts: no key is taken, since it is not known which were revoked: %w", err)
			log.Error(h.lost.Error())
		}
	}
	return h, errors.Join(errs...)
}

func (h *Hosts) readState() error {
	data, err := os.ReadFile(h.stateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	l, err := parseHostList(h.stateFile, data)
	if err != nil {
		return fmt.Errorf("%s: %w", h.stateFile, err)
	}
	h.state = l
	return nil
}

// lists returns the sources in the order in which they count.
func (h *Hosts) lists() []*hostList {
	all := []*hostList{h.state}
	all = append(all, h.fixed...)
	for _, f := range h.files {
		if l, ok, _ := f.Get(); ok {
			all = append(all, l)
		}
	}
	return all
}

// Lookup says what is known of a key. A nil Hosts knows none.
func (h *Hosts) Lookup(key keys.Public) (keys.Host, KeyStatus) {
	if h == nil {
		return keys.Host{}, KeyUnknown
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.lost != nil {
		return keys.Host{}, KeyUnknown
	}
	var found keys.Host
	status := KeyUnknown
	for _, l := range h.lists() {
		i, ok := l.byKey[key]
		switch {
		case !ok:
		case l.hosts[i].Revoked:
			return l.hosts[i], KeyRevoked
		case status == KeyUnknown:
			found, status = l.hosts[i], KeyKnown
		}
	}
	return found, status
}

// Empty reports whether no key is known. A nil Hosts is empty.
func (h *Hosts) Empty() bool {
	if h == nil {
		return true
	}
	for _, l := range h.List() {
		if !l.Revoked {
			return false
		}
	}
	return true
}

// HostEntry is a key and where it is from.
type HostEntry struct {
	keys.Host
	Source string
}

// List returns all lines, in the order in which they count.
func (h *Hosts) List() []HostEntry {
	if h == nil {
		return nil
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	var all []HostEntry
	for _, l := range h.lists() {
		for _, host := range l.hosts {
			all = append(all, HostEntry{Host: host, Source: l.source})
		}
	}
	return all
}

// Err says what is wrong with the files as they are now, or nil.
func (h *Hosts) Err() error {
	if h == nil {
		return nil
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	errs := []error{h.lost}
	for _, f := range h.files {
		_, _, err := f.Get()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// maxState bounds the keys that callers may add and revoke.
const maxState = 4096

// Add lets the holder of a key call, also if the key was revoked by Revoke; a
// line of a file or a fixed key that revokes it still counts. The error says why
// the change does not outlive this run of the agent; it is in force all the
// same, unless it is ErrNotAdded.
func (h *Hosts) Add(host keys.Host) error {
	if err := host.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrNotAdded, err)
	}
	return h.change(host)
}

// ErrNotAdded is the error of Add when the key was not added.
var ErrNotAdded = errors.New("the key was not added")

// Revoke refuses a key from now on. The error is as that of Add; it is
// ErrUnknownKey if no source has the key.
func (h *Hosts) Revoke(fingerprint string) error {
	for _, e := range h.List() {
		if e.Key.Fingerprint() == fingerprint {
			return h.change(keys.Host{Key: e.Key, Name: e.Name, Revoked: true})
		}
	}
	return ErrUnknownKey
}

// ErrUnknownKey is the error of Revoke for a key that nobody has allowed.
var ErrUnknownKey = errors.New("no key has this fingerprint")

// change replaces the line of a key in the state.
func (h *Hosts) change(host keys.Host) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lost != nil {
		return fmt.Errorf("%w: %w", ErrNotAdded, h.lost)
	}
	hosts := slices.DeleteFunc(slices.Clone(h.state.hosts), func(old keys.Host) bool { return old.Key == host.Key })
	if len(hosts) >= maxState {
		return fmt.Errorf("%w: %d keys were added or revoked already", ErrNotAdded, len(hosts))
	}
	h.state = newHostList(h.state.source, append(hosts, host))
	if h.stateFile == "" {
		return errors.New("the agent has no directory for its state")
	}
	return writeFile(h.stateFile, keys.FormatHosts(h.state.hosts))
}

// writeFile replaces a file in one step.
func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
