package disk

// Parse reads the text of device.json.
func Parse(text []byte, rules Rules) (File, error) { return parse(text, rules, "disks") }
