// Host-ctl works with virtual machines from their host, through the guest-agent
// that runs in each:
//
//	host-ctl exec 3 -- uname -a
//	host-ctl shell web
//
// docs/host-ctl.md is its manual. One file holds one verb.
package main
