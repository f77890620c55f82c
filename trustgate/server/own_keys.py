"""The commands behind ``/v1/keys``: the operators', carried out for a tenant's key (its rules: admin.own_keys)."""

from __future__ import annotations

from trustgate.admin.commands import Admin, KeyCreate, KeyRevoke, KeySet
from trustgate.gateway.views.keys import KeyChange
from trustgate.types import ApiKey, Limits, Scope


class OwnKeys:
    def __init__(self, admin: Admin) -> None:
        self._admin = admin

    async def create(self, by_key: str, tenant_id: str, change: KeyChange) -> tuple[ApiKey, str]:
        new = await self._admin.execute(
            KeyCreate(
                tenant=tenant_id,
                name="own" if change.name is None else change.name,
                expires_us=change.expires_us,
                limits=Limits(**change.limits),
                scope=Scope(**change.scope),
                by_key=by_key,
            )
        )
        return new.key, new.secret

    async def change(self, by_key: str, key_id: str, change: KeyChange) -> ApiKey:
        return await self._admin.execute(
            KeySet(
                key=key_id,
                name=change.name,
                limits=change.limits,
                scope=change.scope,
                expires_us=change.expires_us,
                never_expires=change.never_expires,
                by_key=by_key,
            )
        )

    async def revoke(self, by_key: str, key_id: str) -> ApiKey:
        return await self._admin.execute(KeyRevoke(key=key_id, by_key=by_key))
