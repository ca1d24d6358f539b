package config

// ParseOctets reads a size as the configuration has it: "50 MB", "64 MiB".
func ParseOctets(text string) (int64, error) {
	n, err := parseOctets(text)
	return int64(n), err
}
