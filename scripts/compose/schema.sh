#!/usr/bin/env bash
# Brings the database in the containers to the shop's schema and sets the passwords of its roles.
set -euo pipefail

HIGHWATER_PASSWORD=$(cat /run/secrets/highwater)
ADMIN_DATABASE=postgresql://postgres:$(cat /run/secrets/postgres)@primary:5432/shop
SHOP_DATABASE=postgresql://shop_app:$HIGHWATER_PASSWORD@primary:5432/shop
export HIGHWATER_PASSWORD ADMIN_DATABASE SHOP_DATABASE
exec highwater-demo schema
