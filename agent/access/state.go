package access

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vsockrpc/vsockrpc/internal/reload"
	"github.com/vsockrpc/vsockrpc/internal/trusted"
	"github.com/vsockrpc/vsockrpc/keys"
)

// openState reads the state file for the first time.
func (h *Hosts) openState(interval time.Duration) {
	h.stored = reload.New(reload.Config[*hostList]{
		Path:     h.stateFile,
		Parse:    func(data []byte) (*hostList, error) { return parseHostList(h.stateFile, data) },
		Interval: interval,
	})
	l, have, err := h.stored.Get()
	switch {
	case have:
		h.state = l
	case err != nil:
		h.lose(err)
	}
	h.version = h.stored.Version()
}

// lose has no key taken.
func (h *Hosts) lose(err error) {
	h.lost = fmt.Errorf("authorized hosts: no key is taken, since it is not known which were revoked: %w", err)
	h.log.Error(h.lost.Error())
}

// refresh takes what somebody else has made of the state file.
func (h *Hosts) refresh() {
	if h.stored == nil {
		return
	}
	_, _, _ = h.stored.Get()
	v := h.stored.Version()
	h.mu.RLock()
	same := v == h.version
	h.mu.RUnlock()
	if same {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.takeStored()
}

// takeStored puts what is in the state file in force. What was revoked in this run
// stays revoked, also if the file that has come, or the lack of one, knows nothing
// of it: a file that was removed, or a file system that was mounted over it, must not
// give a key back. mu is held.
func (h *Hosts) takeStored() {
	v := h.stored.Version()
	if v == h.version {
		return
	}
	h.version = v
	l, have, err := h.stored.Get()
	switch {
	case err != nil && h.lost == nil:
		h.log.Error("authorized hosts: the state is broken; what it said before is in force", "err", err)
		return
	case err != nil:
		h.lose(err)
		return
	case !have:
		l = newHostList(h.stateFile, nil)
	}
	old := h.state
	h.lost = nil
	kept := 0
	hosts := slices.Clone(l.hosts)
	for _, host := range old.hosts {
		if host.Revoked && !l.revokes(host.Key) {
			hosts = append(hosts, host)
			kept++
		}
	}
	if slices.EqualFunc(hosts, old.hosts, sameHost) {
		return // its own doing
	}
	h.state = newHostList(h.stateFile, hosts)
	if have {
		h.log.Warn("authorized hosts: the state has been replaced, and is read again", "path", h.stateFile, "keys", len(l.hosts), "revoked_before", kept)
	} else {
		h.log.Warn("authorized hosts: the state is gone, and with it the keys that were added", "path", h.stateFile, "revoked_before", kept)
	}
}

func sameHost(a, b keys.Host) bool {
	return a.Key == b.Key && a.Name == b.Name && a.Revoked == b.Revoked && slices.Equal(a.Roles, b.Roles)
}

// maxState bounds the keys that callers may add and revoke.
const maxState = 4096

// Add lets the holder of a key call, also if the key was revoked by Revoke; a
// line of a file or a fixed key that revokes it still counts. The error says why
// the change does not outlive this run of the agent; it is in force all the
// same, unless it is ErrNotAdded. That is also ErrNameTaken if another key has the
// name.
func (h *Hosts) Add(host keys.Host) error {
	if err := host.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrNotAdded, err)
	}
	host.Revoked = false
	return h.change(host)
}

// ErrNotAdded is the error of Add when the key was not added.
var ErrNotAdded = errors.New("the key was not added")

// ErrNameTaken is the error of Add when the name stands for another key.
var ErrNameTaken = errors.New("another key has the name")

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
	if h.stored != nil {
		h.stored.LookHard() // what is written next must not undo what somebody else did
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stored != nil {
		h.takeStored()
	}
	if h.lost != nil {
		return fmt.Errorf("%w: %w", ErrNotAdded, h.lost)
	}
	if !host.Revoked && host.Name != "" && nameTaken(h.lists(), host) {
		return fmt.Errorf("%w: %w: %q", ErrNotAdded, ErrNameTaken, host.Name)
	}
	hosts := slices.DeleteFunc(slices.Clone(h.state.hosts), func(old keys.Host) bool { return old.Key == host.Key })
	if len(hosts) >= maxState {
		return fmt.Errorf("%w: %d keys were added or revoked already", ErrNotAdded, len(hosts))
	}
	h.state = newHostList(h.stateFile, append(hosts, host))
	h.changes++
	if h.stateFile == "" {
		return errors.New("the agent has no directory for its state")
	}
	if err := trusted.Replace(h.stateFile, keys.FormatHosts(h.state.hosts)); err != nil {
		h.log.Error("authorized hosts: the change lasts until the agent ends", "err", err)
		return err
	}
	h.stored.Look()
	h.takeStored()
	return nil
}
