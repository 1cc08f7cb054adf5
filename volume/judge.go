package volume

import (
	"fmt"

	"layervault/persist"
)

// judge looks at the volumes of all tiers together, and at the tiers' lists: what is listed,
// what contradicts its list, what is gone, which generations are superseded, and which of
// two that want one name or UUID is none.
//
// It knows no key. A list may have been changed by somebody who had none either, but then
// nothing of its tier opens (Store.authenticate). So a list, and a volume that needs a key
// to open, can forbid here what needs no key, never the other way round:
//
//   - Generations supersede each other only within one place, and, across places, only where
//     one list has both.
//   - A later generation that is damaged stays the volume, and is damaged: the one that it
//     superseded does not come back.
//   - What a list has wins over what none has; an image wins over what has no key of its own.
func judge(all []Volume, layout persist.Layout, lists map[persist.Tier]*list) []Volume {
	j := &judgement{layout: layout, lists: lists, all: all}
	j.compare()
	j.addMissing()
	j.supersede()
	j.supersedeAcross()
	j.clash(func(v *Volume) string { return v.UUID }, "UUID")
	j.clash(func(v *Volume) string { return v.Name }, "name")
	return j.all
}

type judgement struct {
	layout persist.Layout
	lists  map[persist.Tier]*list
	all    []Volume
}

// compare holds each volume against its list.
func (j *judgement) compare() {
	for i := range j.all {
		v := &j.all[i]
		l := j.lists[keyTier(v.Options)]
		if l != nil && l.damage != nil {
			v.damaged(l.damage)
			continue
		}
		e := l.find(v.where(), v.ID())
		if e == nil {
			continue
		}
		v.pending, v.next = e.Pending, e.Next
		if v.Damage == nil && !e.says(v.Record) {
			v.Damage = fmt.Errorf("volume %s: %w: %w: record names %q (%s), list of tier %s has %q (%s)",
				v.ID(), ErrDamaged, ErrForged, v.Name, describe(v.Options), l.Tier, e.Name, describe(e.Options))
		}
		if v.Damage != nil {
			v.Record = e.record() // its right name
		}
		v.Listed = true
	}
}

func (v *Volume) damaged(why error) {
	if v.Damage == nil {
		v.Damage = fmt.Errorf("volume %s: %w", v.ID(), why)
	}
}

// addMissing adds what a list has and the disk has not.
func (j *judgement) addMissing() {
	there := map[string]bool{}
	for i := range j.all {
		there[target(j.all[i].where(), j.all[i].ID())] = true
	}
	for _, tier := range listTiers {
		l := j.lists[tier]
		if l == nil || l.damage != nil {
			continue
		}
		for _, e := range l.Volumes {
			if e.Pending || there[target(where(e.Options), e.id())] || e.Next != "" && there[e.Next] {
				continue
			}
			v := Volume{Record: e.record(), Path: e.path(j.layout), Listed: true, missing: true}
			v.damaged(fmt.Errorf("%w: %w: %s", ErrDamaged, ErrMissing, v.Path))
			j.all = append(j.all, v)
		}
	}
}

// supersede finds the present generation of each UUID at each place.
func (j *judgement) supersede() {
	groups := map[string][]*Volume{}
	for i := range j.all {
		v := &j.all[i]
		key := v.where() + "/" + v.UUID
		groups[key] = append(groups[key], v)
	}
	for _, group := range groups {
		var newest *Volume
		for _, v := range group {
			switch {
			case newest == nil,
				v.Listed && !newest.Listed,
				v.Listed == newest.Listed && v.Generation > newest.Generation:
				newest = v
			}
		}
		for _, v := range group {
			switch {
			case v == newest:
			case v.Generation < newest.Generation:
				v.Superseded = true
				if newest.Name == "" && v.Name != "" {
					// It cannot be read, but what it superseded tells which volume it is.
					newest.Name = v.Name
				}
			default:
				v.damaged(fmt.Errorf("%w: %w, which has generation %d", ErrDamaged, ErrUnlisted, newest.Generation))
			}
		}
	}
}

// supersedeAcross lets a volume that was purged into another tier take the place of the
// former: where one list has both, or the former's own list names the latter.
func (j *judgement) supersedeAcross() {
	there := map[string]bool{}
	latest := map[string]int64{} // listed, by the list and the UUID
	for i := range j.all {
		v := &j.all[i]
		if v.missing {
			continue
		}
		there[target(v.where(), v.ID())] = true
		if v.Listed && !v.Superseded {
			key := string(keyTier(v.Options)) + "/" + v.UUID
			latest[key] = max(latest[key], v.Generation)
		}
	}
	for i := range j.all {
		v := &j.all[i]
		if v.Listed && (v.Generation < latest[string(keyTier(v.Options))+"/"+v.UUID] || v.next != "" && there[v.next]) {
			v.Superseded = true
		}
	}
}

// clash refuses what wants the name, or the UUID, of a volume with a better claim.
func (j *judgement) clash(of func(v *Volume) string, what string) {
	best := map[string]*Volume{}
	for i := range j.all {
		v := &j.all[i]
		if v.Damage != nil && !v.Listed {
			continue // garbage has no claim
		}
		if key := of(v); key != "" && !v.Superseded && (best[key] == nil || v.claim() > best[key].claim()) {
			best[key] = v
		}
	}
	for i := range j.all {
		v := &j.all[i]
		first := best[of(v)]
		if first == nil || first == v || v.Superseded || v.claim() >= first.claim() || v.Name == first.Name && v.ID() == first.ID() && v.where() == first.where() {
			continue
		}
		v.damaged(fmt.Errorf("%w: %w: %s has the same %s as volume %s of %s (%s)",
			ErrDamaged, ErrForged, v.Path, what, first.Name, first.where(), first.ID()))
	}
}

// claim ranks volumes that want one name: what a list has first, then what needs a key.
func (v *Volume) claim() int {
	n := 0
	if v.Listed {
		n += 2
	}
	if v.ownKey() {
		n++
	}
	return n
}
