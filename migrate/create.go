package migrate

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"layervault/migrate/docker"
)

// The engine's own values, which need no flag.
const (
	defaultShm     = 64 << 20
	defaultLog     = "json-file"
	defaultRuntime = "runc"
	// shortID is the length of the ID's head that docker takes for the name of a container's host.
	shortID = 12
)

// command is a docker create line in the making.
type command struct{ words []string }

// flag adds a flag; an empty value is none.
func (cmd *command) flag(name, value string) {
	if value != "" {
		cmd.words = append(cmd.words, name, value)
	}
}

func (cmd *command) list(name string, values []string) {
	for _, v := range values {
		cmd.flag(name, v)
	}
}

func (cmd *command) pairs(name string, values map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(values)) {
		value := key
		if values[key] != "" {
			value += "=" + values[key]
		}
		cmd.flag(name, value)
	}
}

func (cmd *command) is(name string, set bool) {
	if set {
		cmd.words = append(cmd.words, name)
	}
}

// CreateCommand is a docker create line that makes a container like c, with comments on what the
// line leaves out. image is the configuration of its image, whose values need no flag; nil if that
// is gone. The line is a help for people: docker has more settings than it knows.
func CreateCommand(c *docker.Container, image *docker.Config) string {
	if image == nil {
		image = &docker.Config{}
	}
	cmd := &command{words: []string{"docker", "create", "--name", c.Name}}
	cmd.process(c, image)
	cmd.limits(c)
	cmd.rights(c)
	cmd.mounts(c)
	extra := cmd.networks(c)

	args := c.Config.Cmd
	if !slices.Equal(c.Config.Entrypoint, image.Entrypoint) {
		// --entrypoint takes one word, the others stand before the command's.
		if len(c.Config.Entrypoint) == 0 {
			cmd.words = append(cmd.words, "--entrypoint", "")
		} else {
			cmd.flag("--entrypoint", c.Config.Entrypoint[0])
			args = append(slices.Clone(c.Config.Entrypoint[1:]), args...)
		}
	} else if slices.Equal(args, image.Cmd) {
		args = nil
	}
	cmd.words = append(append(cmd.words, c.Config.Image), args...)

	var b strings.Builder
	for _, note := range leftOut(c) {
		fmt.Fprintf(&b, "# %s: %s\n", c.Name, note)
	}
	quoted := make([]string, 0, len(cmd.words))
	for _, w := range cmd.words {
		quoted = append(quoted, quote(w))
	}
	b.WriteString(strings.Join(quoted, " ") + "\n")
	for _, line := range extra {
		b.WriteString(line + "\n")
	}
	return b.String()
}

// process is what runs, as whom, and with which environment.
func (cmd *command) process(c *docker.Container, image *docker.Config) {
	conf, host := &c.Config, &c.HostConfig
	if conf.Hostname != "" && !strings.HasPrefix(c.ID, conf.Hostname) {
		cmd.flag("--hostname", conf.Hostname)
	}
	if r := restart(c); r != "no" {
		cmd.flag("--restart", r)
	}
	cmd.is("--rm", host.AutoRemove)
	cmd.is("--tty", conf.Tty)
	cmd.is("--interactive", conf.OpenStdin)
	cmd.is("--init", host.Init != nil && *host.Init)
	if conf.User != image.User {
		cmd.flag("--user", conf.User)
	}
	if conf.WorkingDir != image.WorkingDir {
		cmd.flag("--workdir", conf.WorkingDir)
	}
	if conf.StopSignal != image.StopSignal {
		cmd.flag("--stop-signal", conf.StopSignal)
	}
	for _, env := range conf.Env {
		if !slices.Contains(image.Env, env) {
			cmd.flag("--env", env)
		}
	}
	labels := maps.Clone(conf.Labels)
	maps.DeleteFunc(labels, func(key, value string) bool { old, ok := image.Labels[key]; return ok && old == value })
	cmd.pairs("--label", labels)
	if log := host.LogConfig; log.Type != "" && (log.Type != defaultLog || len(log.Config) > 0) {
		cmd.flag("--log-driver", log.Type)
		cmd.pairs("--log-opt", log.Config)
	}
}

// limits is what it may take.
func (cmd *command) limits(c *docker.Container) {
	host := &c.HostConfig
	number := func(name string, n int64) {
		if n > 0 {
			cmd.flag(name, strconv.FormatInt(n, 10))
		}
	}
	number("--memory", host.Memory)
	if host.NanoCpus > 0 {
		cmd.flag("--cpus", strconv.FormatFloat(float64(host.NanoCpus)/1e9, 'f', -1, 64))
	}
	cmd.flag("--cpuset-cpus", host.CpusetCpus)
	if host.PidsLimit != nil {
		number("--pids-limit", *host.PidsLimit)
	}
	if host.ShmSize != defaultShm {
		number("--shm-size", host.ShmSize)
	}
	if host.Runtime != defaultRuntime {
		cmd.flag("--runtime", host.Runtime)
	}
	cmd.flag("--cgroup-parent", host.CgroupParent)
}

// rights is what it is allowed.
func (cmd *command) rights(c *docker.Container) {
	host := &c.HostConfig
	cmd.is("--privileged", host.Privileged)
	cmd.is("--read-only", host.ReadonlyRootfs)
	cmd.list("--cap-add", host.CapAdd)
	cmd.list("--cap-drop", host.CapDrop)
	if !host.Privileged { // which docker says of a privileged one by itself
		cmd.list("--security-opt", host.SecurityOpt)
	}
	cmd.list("--group-add", host.GroupAdd)
	cmd.pairs("--sysctl", host.Sysctls)
	cmd.flag("--pid", host.PidMode)
	if host.IpcMode != "private" {
		cmd.flag("--ipc", host.IpcMode)
	}
	cmd.flag("--userns", host.UsernsMode)
	for _, d := range host.Devices {
		cmd.flag("--device", d.PathOnHost+":"+d.PathInContainer+":"+d.CgroupPermissions)
	}
}

// mounts is what it sees of the host and of volumes.
func (cmd *command) mounts(c *docker.Container) {
	for _, m := range c.Mounts {
		from := source(m)
		if m.Type == "tmpfs" || from == "" {
			continue
		}
		value := from + ":" + m.Destination
		if !m.RW {
			value += ":ro"
		}
		cmd.flag("--volume", value)
	}
	for _, path := range slices.Sorted(maps.Keys(c.HostConfig.Tmpfs)) {
		value := path
		if options := c.HostConfig.Tmpfs[path]; options != "" {
			value += ":" + options
		}
		cmd.flag("--tmpfs", value)
	}
}

// networks is its first network and its ports; the lines join it to the others.
func (cmd *command) networks(c *docker.Container) (lines []string) {
	host := &c.HostConfig
	mode := host.NetworkMode
	if mode != "" && mode != "default" && mode != "bridge" {
		cmd.flag("--network", mode)
	}
	cmd.list("--add-host", host.ExtraHosts)
	cmd.list("--dns", host.DNS)
	cmd.is("--publish-all", host.PublishAllPorts)
	for _, port := range slices.Sorted(maps.Keys(host.PortBindings)) {
		for _, b := range host.PortBindings[port] {
			value := port
			if b.HostPort != "" || b.HostIP != "" {
				value = b.HostPort + ":" + port
			}
			if ip := b.HostIP; ip != "" {
				if strings.Contains(ip, ":") {
					ip = "[" + ip + "]"
				}
				value = ip + ":" + value
			}
			cmd.flag("--publish", value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.NetworkSettings.Networks)) {
		aliases := slices.DeleteFunc(slices.Clone(c.NetworkSettings.Networks[name].Aliases), func(a string) bool {
			return a == c.Name || strings.HasPrefix(c.ID, a) && len(a) >= shortID
		})
		if name == mode || name == "bridge" {
			cmd.list("--network-alias", aliases)
			continue
		}
		join := &command{words: []string{"docker", "network", "connect"}}
		join.list("--alias", aliases)
		join.words = append(join.words, name, c.Name)
		for i, w := range join.words {
			join.words[i] = quote(w)
		}
		lines = append(lines, strings.Join(join.words, " "))
	}
	return lines
}

// leftOut says what the line does not have, and what a person should know.
func leftOut(c *docker.Container) (notes []string) {
	host := &c.HostConfig
	if project := c.Config.Labels[composeLabel]; project != "" {
		notes = append(notes, "made by docker compose, project "+project+": docker compose up makes it better than this line")
	}
	if c.Writable > 0 {
		notes = append(notes, strconv.FormatInt(c.Writable, 10)+" bytes in its own layer are not moved")
	}
	for what, n := range map[string]int{"links": len(host.Links), "volumes-from": len(host.VolumesFrom), "ulimits": len(host.Ulimits), "gpus and other device requests": len(host.DeviceRequests)} {
		if n > 0 {
			notes = append(notes, "not in the line: "+what)
		}
	}
	slices.Sort(notes)
	return notes
}

// quote makes one word of a shell.
func quote(word string) string {
	plain := word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-") == ""
	if plain {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
