// Command guest-agent is the agent that runs in a guest: package agent with
// flags, listeners, systemd's conventions and signals. As the guest's first
// process it is its init, too.
//
// Every flag can also be given by the environment (--log-level is
// GUEST_AGENT_LOG_LEVEL) and on the kernel's command line
// (guest-agent.log-level=debug). A flag goes before the environment, and that
// before the kernel's command line.
//
// docs/guides/systemd.md and docs/guides/minimal-image.md show it at work.
package main
