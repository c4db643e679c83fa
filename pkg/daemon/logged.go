package daemon

// logged holds the last logged text of each topic, so that only changes are logged.
type logged map[string]string

// changed reports whether the text differs from the last text of the topic, and
// records the text. The first text is compared with "".
func (s logged) changed(topic, text string) bool {
	if s[topic] == text {
		return false
	}
	s[topic] = text
	return true
}
