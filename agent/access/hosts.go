package access

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/vsockrpc/vsockrpc/internal/reload"
	"github.com/vsockrpc/vsockrpc/keys"
)

// HostsConfig says where an agent finds the keys of hosts that may call. All of
// it is optional. The format everywhere is that of an authorized_hosts file:
// docs/security.md has it.
type HostsConfig struct {
	// Files are read again when they change. They need not exist, and the keys of
	// one that goes are gone. Nobody but root and the agent's user may be able to
	// write them, or the directories above them.
	Files []string
	// Fixed holds keys that stay for this run of the agent, by where they are
	// from: a word for people, such as "kernel command line".
	Fixed map[string][]byte
	// StateFile keeps what callers add and revoke. Without one, or if it cannot
	// be written, that lasts as long as the agent runs. It is read again when
	// somebody else has changed it, or another one has come in its place.
	StateFile string
	// Logger is told of files that have changed. Default: slog.Default().
	Logger *slog.Logger
	// Interval is how often files are looked at, at most. Default: 500 ms.
	Interval time.Duration
}

// Hosts are the keys of hosts that may call. A key that is revoked anywhere is
// refused, whatever else is said about it; otherwise what callers have added
// counts before what the configuration says. All methods may be called
// concurrently.
type Hosts struct {
	files     []*reload.File[*hostList]
	fixed     []*hostList
	stateFile string
	stored    *reload.File[*hostList] // what is in stateFile; nil without one
	log       *slog.Logger

	mu      sync.RWMutex
	state   *hostList // what is in force of it
	version uint64    // of stored, that state has
	changes uint64    // by Add and Revoke
	// lost says why the state cannot be known. Then no key is known either: it
	// could be one that was revoked.
	lost error
}

// hostList is one source of keys.
type hostList struct {
	source string
	hosts  []keys.Host
	byKey  map[keys.Public]int    // the first line with a key; one that revokes it, if any
	named  map[string]keys.Public // the first key with a name, of those that are not revoked
}

func newHostList(source string, hosts []keys.Host) *hostList {
	l := &hostList{source: source, hosts: hosts, byKey: make(map[keys.Public]int, len(hosts)), named: make(map[string]keys.Public)}
	for i, h := range hosts {
		if _, ok := l.byKey[h.Key]; !ok || h.Revoked {
			l.byKey[h.Key] = i
		}
	}
	for _, h := range hosts {
		if _, ok := l.named[h.Name]; !ok && h.Name != "" && !l.revokes(h.Key) {
			l.named[h.Name] = h.Key
		}
	}
	return l
}

// revokes reports whether a line revokes the key.
func (l *hostList) revokes(key keys.Public) bool {
	i, ok := l.byKey[key]
	return ok && l.hosts[i].Revoked
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
// Hosts are of use all the same, without those. A nil cfg means no keys but those that
// callers add.
func NewHosts(cfg *HostsConfig) (*Hosts, error) {
	if cfg == nil {
		cfg = &HostsConfig{}
	}
	h := &Hosts{stateFile: cfg.StateFile, state: newHostList(cfg.StateFile, nil), log: cfg.Logger}
	if h.log == nil {
		h.log = slog.Default()
	}
	for _, path := range cfg.Files {
		h.files = append(h.files, reload.New(reload.Config[*hostList]{
			Path:     path,
			Parse:    func(data []byte) (*hostList, error) { return parseHostList(path, data) },
			Report:   func(err error) { h.report(path, err) },
			Interval: cfg.Interval,
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
		h.openState(cfg.Interval)
	}
	return h, errors.Join(errs...)
}

// report logs what has become of a file.
func (h *Hosts) report(path string, err error) {
	switch {
	case err == nil:
		h.log.Info("authorized hosts: the file has changed", "path", path)
	case errors.Is(err, fs.ErrNotExist):
		h.log.Warn("authorized hosts: the file is gone, and with it its keys", "path", path)
	default:
		h.log.Error("authorized hosts: the file is broken; what it said before is in force", "err", err)
	}
}

// Look looks at the files now, without regard to the interval.
func (h *Hosts) Look() {
	if h == nil {
		return
	}
	for _, f := range h.files {
		f.Look()
	}
	if h.stored != nil {
		h.stored.Look()
		h.refresh()
	}
}

// Version changes with every change of what is known of any key.
func (h *Hosts) Version() uint64 {
	if h == nil {
		return 0
	}
	var n uint64
	for _, f := range h.files {
		f.Get()
		n += f.Version()
	}
	h.refresh()
	h.mu.RLock()
	defer h.mu.RUnlock()
	return n + h.version + h.changes
}

// lists returns the sources in the order in which they count. mu is held.
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
//
// Names that callers have given to keys are unique: one that stands for another key
// in the guest's own configuration, or did before, is not this key's.
func (h *Hosts) Lookup(key keys.Public) (keys.Host, KeyStatus) {
	if h == nil {
		return keys.Host{}, KeyUnknown
	}
	h.refresh()
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.lost != nil {
		return keys.Host{}, KeyUnknown
	}
	var found keys.Host
	status := KeyUnknown
	lists := h.lists()
	for n, l := range lists {
		i, ok := l.byKey[key]
		switch {
		case !ok:
		case l.hosts[i].Revoked:
			return l.hosts[i], KeyRevoked
		case status == KeyUnknown:
			found, status = l.hosts[i], KeyKnown
			if n == 0 && nameTaken(lists, found) {
				found.Name = ""
			}
		}
	}
	return found, status
}

// nameTaken reports whether the name of a host that a caller has added stands for
// another key.
func nameTaken(lists []*hostList, host keys.Host) bool {
	for _, l := range lists {
		if other, ok := l.named[host.Name]; ok && other != host.Key {
			return true
		}
	}
	return false
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
	h.refresh()
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
	h.refresh()
	h.mu.RLock()
	defer h.mu.RUnlock()
	errs := []error{h.lost}
	for _, f := range h.files {
		_, _, err := f.Get()
		errs = append(errs, err)
	}
	if h.stored != nil && h.lost == nil {
		_, _, err := h.stored.Get()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
