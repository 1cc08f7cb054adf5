// Package packaging holds what brings layervault onto a host: the managed plugin's
// root file system, install and uninstall scripts, and a systemd unit. There is no
// Go in it but the scripts' tests.
package packaging
