package main

import (
	"fmt"
	"strings"

	"layervault/migrate"
	"layervault/migrate/docker"
)

// printPlan shows a plan.
func (a *app) printPlan(p *migrate.Plan) error {
	if a.json {
		return a.printJSON(p)
	}
	for _, side := range []struct {
		name string
		info *docker.Info
	}{{"from", p.From}, {"to", p.To}} {
		text := "the folder " + p.Dir
		if side.info != nil {
			text = fmt.Sprintf("docker %s at %s, storage driver %s", side.info.Version, side.info.Address, side.info.Driver)
		}
		if err := a.printf("%-5s %s\n", side.name, text); err != nil {
			return err
		}
	}
	cells := make([][]string, 0, len(p.Images))
	for _, r := range p.Images {
		cells = append(cells, []string{string(r.Action), size(r.Size), shortImage(r.Name(), len(r.Tags)), orDash(r.Reason)})
	}
	if err := a.section(cells, "ACTION", "SIZE", "IMAGE", "REASON"); err != nil {
		return err
	}
	cells = nil
	for _, n := range p.Space {
		verdict := "enough"
		if !n.Enough {
			verdict = "too little"
		}
		cells = append(cells, []string{size(n.Needed), size(n.Free), verdict, n.Path, n.For})
	}
	if err := a.section(cells, "NEEDED", "FREE", "", "AT", "FOR"); err != nil {
		return err
	}
	return a.printOthers(p)
}

// printOthers shows what is not moved.
func (a *app) printOthers(p *migrate.Plan) error {
	var cells [][]string
	for _, c := range p.Containers {
		cells = append(cells, []string{c.Name, c.Status, c.Restart, size(c.Writable), orDash(strings.Join(c.Networks, ",")), orDash(strings.Join(c.Mounts, " ")), c.Image})
	}
	if len(cells) > 0 {
		if err := a.printf("\nContainers are not moved; the run writes down their configuration. To keep what one wrote\ninto its own layer, make an image of it before: docker commit NAME NAME:kept\n"); err != nil {
			return err
		}
	}
	if err := a.section(cells, "CONTAINER", "STATE", "RESTART", "OWN LAYER", "NETWORKS", "MOUNTS", "IMAGE"); err != nil {
		return err
	}
	cells = nil
	for _, v := range p.Volumes {
		todo := "nothing: the same vault"
		if !v.Same {
			todo = "copy " + orDash(v.Path)
		}
		cells = append(cells, []string{v.Name, v.Driver, todo})
	}
	if err := a.section(cells, "VOLUME", "DRIVER", "TO DO"); err != nil {
		return err
	}
	if len(p.Networks) > 0 {
		return a.printf("\nnetworks to make anew: %s\n", strings.Join(p.Networks, ", "))
	}
	return nil
}

// section is a table below an empty line, or nothing.
func (a *app) section(rows [][]string, head ...string) error {
	if len(rows) == 0 {
		return nil
	}
	if err := a.printf("\n"); err != nil {
		return err
	}
	return a.table(head, rows)
}

// shortImage is an image's name, with the number of its other tags.
func shortImage(name string, tags int) string {
	if hex, ok := strings.CutPrefix(name, "sha256:"); ok {
		name = short(hex)
	}
	if tags > 1 {
		return fmt.Sprintf("%s and %d more tags", name, tags-1)
	}
	return name
}

// printMigrated shows what a run did.
func (a *app) printMigrated(r *migrate.Report) error {
	if a.json {
		return a.printJSON(r)
	}
	counts := map[migrate.Outcome]int{}
	for _, im := range r.Images {
		counts[im.Outcome]++
		line := fmt.Sprintf("%-7s %s", im.Outcome, shortImage(im.Name, 0))
		if im.Note != "" {
			line += ": " + im.Note
		}
		if err := a.printf("%s\n", line); err != nil {
			return err
		}
	}
	if r.Containers > 0 {
		if err := a.printf("configuration of %d containers: %s/containers\n", r.Containers, r.Dir); err != nil {
			return err
		}
	}
	return a.printf("%d of %d images are moved or saved; nothing was removed\n",
		counts[migrate.OutcomeMoved]+counts[migrate.OutcomePulled]+counts[migrate.OutcomeSaved]+counts[migrate.OutcomeDone], len(r.Images))
}
