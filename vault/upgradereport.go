package vault

import (
	"fmt"
	"strings"
)

// UpgradeReport says what an upgrade of one tier did, or would do.
type UpgradeReport struct {
	Tier   string `json:"tier"`
	DryRun bool   `json:"dry_run"`
	Floor  int    `json:"floor"` // the lowest format that the tier takes now
	// Upgraded: this run raised it.
	Upgraded bool `json:"upgraded"`
	// Formats is what the tier has, or had before the upgrade.
	Formats
	// Refused are images that do not open: not upgraded, or restored after the upgrade.
	Refused []string `json:"refused"`
	// Layers says what was sealed anew; nil without --layers, and where the upgrade failed.
	Layers *LayersReport `json:"layers,omitempty"`
}

// String is the report for a person, of one or more lines.
func (r UpgradeReport) String() string {
	var b strings.Builder
	old := fmt.Sprintf("%d of %d images and %d of %d records", len(r.OldImages), r.Images, len(r.OldRecords), r.Records)
	switch {
	case r.Upgraded:
		fmt.Fprintf(&b, "%s: upgraded; %s had format 1, which is now refused\n", r.Tier, old)
	case r.Floor > 1:
		fmt.Fprintf(&b, "%s: format 2\n", r.Tier)
	case r.DryRun:
		fmt.Fprintf(&b, "%s: %s have format 1\n", r.Tier, old)
	default:
		fmt.Fprintf(&b, "%s: not upgraded, format 1 is still accepted\n", r.Tier)
	}
	if r.DryRun && r.Floor == 1 {
		for _, title := range append(r.OldImages, r.OldRecords...) {
			fmt.Fprintf(&b, "  would upgrade %s\n", title)
		}
		for _, p := range r.Problems {
			fmt.Fprintf(&b, "  does not open: %s\n", p)
		}
	}
	for _, image := range r.Refused {
		fmt.Fprintf(&b, "  refused: %s\n", image)
	}
	if r.Layers != nil && r.Layers.Layers > 0 {
		b.WriteString(r.Layers.String())
	}
	return b.String()
}
