// A self-signed certificate for localhost, for tests only: everybody has its key, so nobody may trust it. Valid from 2024
// to 2124. Made once with `openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost` and
// `openssl ca -selfsign -startdate 20240101000000Z -enddate 21240101000000Z`, for DNS:localhost, IP:127.0.0.1, IP:::1.

export const cert = `-----BEGIN CERTIFICATE-----
MIIBjDCCATKgAwIBAgIUCa/wlKDQ0QX+YwibmyJUzfbCFkAwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI0MDEwMTAwMDAwMFoYDzIxMjQwMTAx
MDAwMDAwWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAT9hgGF94EAGS8jAQIr+ALLnUpFaF6yLb8DM1rjQqWgzwe62tpKGx7h
VCI+03i/QsnCu96cNa0GCCAWgyZ7yfnIo2AwXjAsBgNVHREEJTAjgglsb2NhbGhv
c3SHBH8AAAGHEAAAAAAAAAAAAAAAAAAAAAEwDwYDVR0TAQH/BAUwAwEB/zAdBgNV
HQ4EFgQUr9DjKtnTEijibPVmFUpzJgglHnIwCgYIKoZIzj0EAwIDSAAwRQIgOK1D
Zlu85rhcAULltksMkrFiR5t5BWRyNM5mwA1YAVECIQCDveA+Ew5jV55sV2GRrXYB
GTnmZMoO7CLp8qpXGdB23A==
-----END CERTIFICATE-----
`

export const key = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgqc9whEU+2otBnzIh
YhuKfkr1NyF7wOZnpmsz7l1nxcKhRANCAAT9hgGF94EAGS8jAQIr+ALLnUpFaF6y
Lb8DM1rjQqWgzwe62tpKGx7hVCI+03i/QsnCu96cNa0GCCAWgyZ7yfnI
-----END PRIVATE KEY-----
`
