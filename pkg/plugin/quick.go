package plugin

import "github.com/overlay-cni/overlay-cni/internal/jsontext"

// quickConf reads a configuration without reflection, which costs an ADD some
// hundred microseconds: encoding/json has to learn the types first. If
// something is unusual it returns an empty one and false.
func quickConf(data []byte) (*conf, bool) {
	c := &conf{}
	if jsontext.Read(data, c.quick) {
		return c, true
	}
	return &conf{}, false
}

// quick knows the keys of conf, and those that are there and not looked at.
func (c *conf) quick(r *jsontext.Reader) {
	r.Object(func(key string) {
		switch key {
		case "cniVersion":
			c.CNIVersion = r.Text()
		case "name":
			c.Name = r.Text()
		case "type":
			c.Type = r.Text()
		case "runDir":
			c.RunDir = r.Text()
		case "bridge":
			c.Bridge = r.Text()
		case "mtu":
			c.MTU = r.Int()
		case "waitSeconds":
			wait := r.Int()
			c.Wait = &wait
		case "ipam":
			c.IPAM.quick(r)
		case "dns":
			c.DNS = r.Raw()
		case "prevResult":
			c.PrevResult = r.Raw()
		case "runtimeConfig":
			c.Runtime = r.Raw()
		case "args":
			c.Args = r.Raw()
		case "cni.dev/valid-attachments":
			c.Valid = r.Raw()
		case "capabilities":
			r.Raw()
		default: // another spelling of a key, perhaps
			r.Odd()
		}
	})
}

func (c *ipamConf) quick(r *jsontext.Reader) {
	r.Object(func(key string) {
		switch key {
		case "type":
			c.Type = r.Text()
		case "subnet":
			c.Subnet = r.Text()
		case "ranges":
			r.List(func() {
				var set []rangeConf
				r.List(func() { set = append(set, quickRange(r)) })
				c.Ranges = append(c.Ranges, set)
			})
		case "routes":
			r.List(func() { c.Routes = append(c.Routes, quickRoute(r)) })
		default:
			r.Odd()
		}
	})
}

func quickRange(r *jsontext.Reader) (c rangeConf) {
	r.Object(func(key string) {
		switch key {
		case "subnet":
			c.Subnet = r.Text()
		case "rangeStart":
			c.RangeStart = r.Text()
		case "rangeEnd":
			c.RangeEnd = r.Text()
		case "gateway":
			c.Gateway = r.Text()
		case "exclude":
			r.List(func() { c.Exclude = append(c.Exclude, r.Text()) })
		default:
			r.Odd()
		}
	})
	return c
}

func quickRoute(r *jsontext.Reader) (c routeConf) {
	r.Object(func(key string) {
		switch key {
		case "dst":
			c.Dst = r.Text()
		case "gw":
			c.GW = r.Text()
		default:
			r.Odd()
		}
	})
	return c
}
