package keys

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/vsockrpc/vsockrpc/internal/trusted"
)

// keyType is the only kind of key there is (RFC 8709, section 4).
const keyType = "ssh-ed25519"

// Public is an Ed25519 public key. It is comparable.
type Public [ed25519.PublicKeySize]byte

// PublicOf returns the public half of a private key.
func PublicOf(key ed25519.PrivateKey) Public {
	var p Public
	copy(p[:], key.Public().(ed25519.PublicKey))
	return p
}

// blob is the key as RFC 8709 has it on the wire of SSH.
func (p Public) blob() []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(keyType)))
	b = append(b, keyType...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
	return append(b, p[:]...)
}

// String returns the key as OpenSSH writes it, without a comment.
func (p Public) String() string { return keyType + " " + p.Base64() }

// Base64 returns the second word of String, which says by itself what it is.
func (p Public) Base64() string { return base64.StdEncoding.EncodeToString(p.blob()) }

// Fingerprint returns "SHA256:" and 43 characters, as ssh-keygen -l prints them.
func (p Public) Fingerprint() string {
	sum := sha256.Sum256(p.blob())
	return fingerprintPrefix + base64.RawStdEncoding.EncodeToString(sum[:])
}

const fingerprintPrefix = "SHA256:"

// CheckFingerprint returns an error unless s is of the form of Fingerprint.
func CheckFingerprint(s string) error {
	digits, ok := strings.CutPrefix(s, fingerprintPrefix)
	sum, err := base64.RawStdEncoding.Strict().DecodeString(digits)
	if !ok || err != nil || len(sum) != sha256.Size {
		return fmt.Errorf("fingerprint %.80q: want SHA256: and 43 characters, as ssh-keygen -l prints them", s)
	}
	return nil
}

// ParseBase64 parses what Base64 returns.
func ParseBase64(s string) (Public, error) {
	var p Public
	blob, err := base64.StdEncoding.Strict().DecodeString(s)
	head := p.blob()
	head = head[:len(head)-len(p)]
	if err != nil || len(blob) != len(head)+len(p) || !bytes.HasPrefix(blob, head) {
		return p, fmt.Errorf("key %.80q is no Ed25519 key as OpenSSH writes them (AAAAC3NzaC1lZDI1NTE5...)", s)
	}
	copy(p[:], blob[len(head):])
	return p, nil
}

// ParsePublic parses a line "ssh-ed25519 BASE64 [comment]", or BASE64 alone. It
// returns the comment too.
func ParsePublic(line string) (Public, string, error) {
	words := strings.Fields(line)
	if len(words) > 0 && words[0] == keyType {
		words = words[1:]
	}
	if len(words) == 0 {
		return Public{}, "", errors.New("no key: want ssh-ed25519 AAAAC3NzaC1lZDI1NTE5... [comment]")
	}
	p, err := ParseBase64(words[0])
	return p, strings.Join(words[1:], " "), err
}

// pemType is the type of a PEM block with a private key.
const pemType = "PRIVATE KEY"

// MarshalPrivate returns the private key as PKCS #8 in PEM.
func MarshalPrivate(key ed25519.PrivateKey) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic("keys: " + err.Error()) // of an Ed25519 key it always succeeds
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})
}

// ParsePrivate parses what MarshalPrivate returns.
func ParsePrivate(data []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != pemType {
		return nil, errors.New("no private key in it: want PKCS #8 in PEM (BEGIN PRIVATE KEY), as host-ctl keygen makes it")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	ed, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the private key is a %T: want Ed25519", key)
	}
	return ed, nil
}

// maxKeyFile bounds what is read of a file that should hold one key.
const maxKeyFile = 16 << 10

// ReadPrivate reads the file of a private key that a user has named. One that others
// may read is refused, as ssh does.
func ReadPrivate(path string) (ed25519.PrivateKey, error) {
	data, err := trusted.ReadNamed(path, maxKeyFile, 0o077)
	return parseFile(path, data, err)
}

// readOwn reads the file of a program's own private key, which nobody else must be
// able to exchange either.
func readOwn(path string) (ed25519.PrivateKey, error) {
	data, err := trusted.ReadSecret(path, maxKeyFile)
	return parseFile(path, data, err)
}

func parseFile(path string, data []byte, err error) (ed25519.PrivateKey, error) {
	if err != nil {
		return nil, err
	}
	key, err := ParsePrivate(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// WritePair makes a new file for a private key, with mode 0600, and its directory, and
// beside it, with the suffix .pub, one with a line about its public half. They are
// those of the owner of the directory, as package trusted has it. If the first file
// exists the error is fs.ErrExist.
func WritePair(path string, key ed25519.PrivateKey, line string) error {
	return trusted.AsOwner(path, func() error {
		if err := WritePrivate(path, key); err != nil {
			return err
		}
		return os.WriteFile(path+".pub", []byte(line+"\n"), 0o644)
	})
}

// WritePrivate makes a new file for a private key, with mode 0600, and its
// directory. If the file exists the error is fs.ErrExist.
func WritePrivate(path string, key ed25519.PrivateKey) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(MarshalPrivate(key))
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		os.Remove(path)
	}
	return err
}

// ReadOrMake reads a program's own private key, as package trusted does, or makes a
// key and the file if there is none. If it cannot make the file, or must not read
// the one that is there, it returns a new key, to be used while the process lives,
// and the error.
func ReadOrMake(path string) (key ed25519.PrivateKey, made bool, err error) {
	key, err = readOwn(path)
	if err == nil {
		return key, false, nil
	}
	readErr := err
	if _, key, err = ed25519.GenerateKey(nil); err != nil {
		return nil, false, err
	}
	if !errors.Is(readErr, fs.ErrNotExist) {
		return key, false, readErr
	}
	if err = trusted.Create(path, MarshalPrivate(key)); errors.Is(err, fs.ErrExist) {
		// Another process was quicker.
		if first, err := readOwn(path); err == nil {
			return first, false, nil
		}
	}
	return key, err == nil, err
}
