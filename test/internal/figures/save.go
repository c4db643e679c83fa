package figures

import (
	"encoding/json"
	"os"
)

// Save writes all that was measured to a file as JSON. No name is no file.
func Save(file string, results any) error {
	if file == "" {
		return nil
	}
	data, err := json.MarshalIndent(results, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}
