%% SPDX-License-Identifier: Apache-2.0
%% The macros of PropEr that our properties use. Debian keeps PropEr's own header, which also
%% brings a parse transform that we do without, in a package apart from the library's. Modules
%% import the generators that they use from proper_types.

-define(FORALL(X, Type, Property), proper:forall(Type, fun(X) -> Property end)).
-define(LET(X, Type, Generator), proper_types:bind(Type, fun(X) -> Generator end, false)).
-define(SUCHTHAT(X, Type, Condition),
    proper_types:add_constraint(Type, fun(X) -> Condition end, true)
).
