package config

import (
	"strings"
	"testing"
)

func TestSearchIndex(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		on, attachments, documents bool
		octets                     int64
	}{
		"":                                      {true, false, false, 0}, // the room's own default
		"search_index {}":                       {true, false, false, 4 << 20},
		"search_index { enabled = false }":      {},
		"search_index { attachments=true }":     {true, true, false, 4 << 20},
		"search_index { documents=true }":       {true, false, true, 4 << 20},
		"search_index { max_octets=\"1 MiB\" }": {true, false, false, 1 << 20},
	} {
		f, err := loadBackend(t, text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		room := f.Backend.Room().SearchIndex
		if (room != nil) != want.on || room != nil && (room.Attachments != want.attachments || room.Documents != want.documents || room.MaxOctets != want.octets) {
			t.Errorf("%s: %+v", text, room)
		}
	}
	for text, want := range map[string]string{
		"search_index { max_octets = 1000 }":                      "at least 64 KiB",
		"search_index {\n enabled = false\n attachments=true\n }": "needs enabled = true",
		"search_index {\n enabled = false\n documents=true\n }":   "documents = true needs enabled = true",
	} {
		if _, err := loadBackend(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
