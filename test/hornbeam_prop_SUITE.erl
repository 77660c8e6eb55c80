%% SPDX-License-Identifier: Apache-2.0
%% Runs every property of the `prop_' modules that lie beside this suite.
-module(hornbeam_prop_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).

-export([properties_hold/1]).

-define(RUNS, 1000).

all() ->
    [properties_hold].

%% No property of any module has a counterexample.
properties_hold(_) ->
    Modules = prop_modules(),
    ?assertNotEqual([], Modules),
    [check(Module, Property) || Module <- Modules, Property <- properties(Module)].

%% Internal.

prop_modules() ->
    Folder = filename:dirname(code:which(?MODULE)),
    Beams = filelib:wildcard("prop_*.beam", Folder),
    [list_to_atom(filename:rootname(Beam)) || Beam <- Beams].

properties(Module) ->
    {module, Module} = code:ensure_loaded(Module),
    [Name || {Name, 0} <- Module:module_info(exports), is_property(atom_to_list(Name))].

is_property("prop_" ++ _) -> true;
is_property(_) -> false.

%% Those that take their time say how often they are tried. HORNBEAM_MODEL_RUNS tries them more
%% often: `make soak SOAK=models'.
runs(Module) ->
    case {erlang:function_exported(Module, runs, 0), os:getenv("HORNBEAM_MODEL_RUNS")} of
        {false, _} -> ?RUNS;
        {true, false} -> Module:runs();
        {true, Runs} -> list_to_integer(Runs)
    end.

check(Module, Property) ->
    Options = [quiet, long_result, {numtests, runs(Module)}, {max_size, 30}],
    ct:pal("~s:~s", [Module, Property]),
    ?assertEqual({Module, Property, true}, {
        Module, Property, proper:quickcheck(Module:Property(), Options)
    }).
