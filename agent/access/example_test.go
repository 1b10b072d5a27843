package access_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log"

	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/keys"
)

// A program that embeds the agent decides by itself which hosts may call.
func ExampleHosts() {
	hosts, err := access.NewHosts(nil)
	if err != nil {
		log.Fatal(err)
	}
	_, private, err := ed25519.GenerateKey(nil) // keys.ReadPrivate reads one of host-ctl keygen
	if err != nil {
		log.Fatal(err)
	}
	key := keys.PublicOf(private)
	// Any other error says that the key is known for this run alone: there is no StateFile.
	if err := hosts.Add(keys.Host{Key: key, Name: "ci", Roles: []string{"ops"}}); errors.Is(err, access.ErrNotAdded) {
		log.Fatal(err)
	}
	host, status := hosts.Lookup(key)
	fmt.Println(host.Name, host.Roles, status == access.KeyKnown)
	// Output: ci [ops] true
}
