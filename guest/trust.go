package guest

import (
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/internal/trusted"
	"github.com/vsockrpc/vsockrpc/keys"
)

// Trust says by which keys this side and its guests know each other. Guests are
// spoken to in TLS if there is a Key, a GuestKey, or a known key for the guest's
// name; otherwise as the connection is. docs/security.md has the whole story.
//
// It must not be changed while it is in use, and may be shared.
type Trust struct {
	// Key is this side's private key, which guests are shown. nil: none.
	Key ed25519.PrivateKey
	// Known, if not nil, has the keys of guests by the names that the
	// configuration file gives them. The key of a guest with a name that it does
	// not have is added when the guest has answered for the first time.
	Known *KnownGuests
	// GuestKey, if not empty, is the fingerprint ("SHA256:...") that the guest's
	// key must have, whatever Known says.
	GuestKey string
}

// Names of the files beside the configuration file.
const (
	identityFile    = "id_ed25519"
	knownGuestsFile = "known_guests"
)

// DefaultIdentity returns the path of the user's private key.
func DefaultIdentity() (string, error) { return besideFile(identityFile) }

func besideFile(name string) (string, error) {
	path, err := DefaultConfigFile()
	if err != nil {
		return "", err
	}
	return filepath.Join(filepath.Dir(path), name), nil
}

// ReadTrust reads the user's key and known guests. An empty path means the
// default, which need not exist.
func ReadTrust(identity, knownGuests string) (*Trust, error) {
	t := &Trust{}
	path, err := identity, error(nil)
	if path == "" {
		path, err = DefaultIdentity()
	}
	if err == nil {
		t.Key, err = keys.ReadPrivate(path)
		if identity == "" && errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err != nil {
			return nil, fmt.Errorf("private key: %w", err)
		}
	}
	if knownGuests == "" {
		if knownGuests, err = besideFile(knownGuestsFile); err != nil {
			return t, nil // no home directory, no file
		}
	}
	t.Known, err = ReadKnownGuests(knownGuests)
	if err != nil {
		return nil, err
	}
	return t, nil
}

// KnownGuests are the keys of guests, by name. Its methods may be called
// concurrently.
type KnownGuests struct {
	path string

	mu     sync.Mutex
	guests []keys.Guest
}

// ReadKnownGuests reads a file of guests' keys, which need not exist. One that others
// may write is refused.
func ReadKnownGuests(path string) (*KnownGuests, error) {
	k := &KnownGuests{path: path}
	data, err := trusted.ReadNamed(path, keys.MaxFile, 0o022)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err == nil {
		k.guests, err = keys.ParseGuests(data)
	}
	if err != nil {
		return nil, fmt.Errorf("known guests %s: %w", path, err)
	}
	return k, nil
}

// Fingerprints returns those of the keys that a guest may have, none if it is
// not known.
func (k *KnownGuests) Fingerprints(name string) []string {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []string
	for _, g := range k.guests {
		if g.Name == name {
			all = append(all, g.Key.Fingerprint())
		}
	}
	return all
}

// add adds a key to the file.
func (k *KnownGuests) add(name string, key keys.Public) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	g := keys.Guest{Name: name, Key: key}
	if slices.Contains(k.guests, g) {
		return nil
	}
	err := trusted.AsOwner(k.path, func() error { return appendLine(k.path, g.String()) })
	if err == nil {
		k.guests = append(k.guests, g)
	}
	return err
}

// appendLine adds a line to a file, in one write, so that another process's line stays
// whole.
func appendLine(path, line string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}

// Forget takes all keys of a guest out of the file: the next one that answers
// to the name is believed.
func (k *KnownGuests) Forget(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	data, err := trusted.ReadNamed(k.path, keys.MaxFile, 0o022)
	if errors.Is(err, fs.ErrNotExist) {
		k.guests = nil
		return nil
	}
	if err != nil {
		return err
	}
	var kept strings.Builder
	for line := range strings.Lines(string(data)) {
		if words := strings.Fields(line); len(words) == 0 || words[0] != name {
			kept.WriteString(line)
		}
	}
	k.guests = slices.DeleteFunc(k.guests, func(g keys.Guest) bool { return g.Name == name })
	return trusted.AsOwner(k.path, func() error { return replaceFile(k.path, kept.String()) })
}

// replaceFile gives a file other contents, in one step.
func replaceFile(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".known_guests-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// identity is what a dialer finds out about the guest's key.
type identity struct {
	trust *Trust
	name  string // of the guest, if its key is to be known by that

	mu    sync.Mutex
	key   keys.Public // shown last
	seen  bool
	kept  bool        // first is set
	first keys.Public // of the guest that answered first
	err   *Error      // why it was refused
}

// keep takes the key shown last, if there is one, for that of the guest: no other is
// spoken to from now on.
func (i *identity) keep() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.kept, i.first = i.seen, i.key
}

// proved reports whether the guest is known by its key.
func (i *identity) proved() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.kept
}

// tlsConfig returns how to speak TLS with the guest, or nil if not at all.
func (i *identity) tlsConfig(own *tls.Config) (*tls.Config, error) {
	if own != nil {
		return own, nil
	}
	if i.trust == nil || i.trust.Key == nil && i.trust.GuestKey == "" && len(i.trust.Known.Fingerprints(i.name)) == 0 {
		return nil, nil
	}
	if i.trust.GuestKey != "" {
		if err := keys.CheckFingerprint(i.trust.GuestKey); err != nil {
			return nil, err
		}
	}
	return keys.ClientConfig(i.trust.Key, i.verify)
}

// verify decides on the key that a guest shows. TLS has yet to prove that it is
// the guest's.
func (i *identity) verify(key keys.Public) error {
	var want []string
	switch {
	case i.trust.GuestKey != "":
		want = []string{i.trust.GuestKey}
	case i.name != "":
		want = i.trust.Known.Fingerprints(i.name)
	}
	got := key.Fingerprint()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.err = nil
	if i.kept && key != i.first {
		i.err = &Error{Code: codes.FailedPrecondition, Reason: ReasonOtherGuest,
			message: fmt.Sprintf("the connection was lost, and another guest answers now: its key is %s, was %s", got, i.first.Fingerprint()),
			Remedy:  "find out which guest has this address now"}
		return errors.New(i.err.message)
	}
	i.key, i.seen = key, true
	if len(want) == 0 || slices.Contains(want, got) {
		return nil
	}
	i.err = &Error{Code: codes.FailedPrecondition, Reason: ReasonWrongGuestKey,
		message: fmt.Sprintf("this is not the guest that was meant: its key is %s, expected is %s", got, strings.Join(want, " or ")),
		Remedy:  "find out who answers there; if the guest was made anew, run host-ctl enroll --replace with its name"}
	// As a plain error: TLS is a part of connecting, and grpc takes the code of a
	// status there for its own.
	return errors.New(i.err.message)
}

// wrong returns why the last connection was refused, or nil.
func (i *identity) wrong() *Error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.err
}

// pin keeps the key of a guest that has answered for the first time.
func (i *identity) pin() error {
	if i.trust == nil || i.trust.Known == nil || i.name == "" {
		return nil
	}
	i.mu.Lock()
	key, seen := i.key, i.seen
	i.mu.Unlock()
	if !seen || len(i.trust.Known.Fingerprints(i.name)) > 0 && i.trust.GuestKey == "" {
		return nil
	}
	return i.trust.Known.add(i.name, key)
}

// GuestKey returns the fingerprint of the key that the guest has shown when the
// connection was made last, empty if it showed none.
func (g *Guest) GuestKey() string {
	g.identity.mu.Lock()
	defer g.identity.mu.Unlock()
	if !g.identity.seen {
		return ""
	}
	return g.identity.key.Fingerprint()
}
