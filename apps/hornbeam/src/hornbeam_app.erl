%% SPDX-License-Identifier: Apache-2.0

%% @private The OTP application. Tables that must outlive every process of the tree are made here:
%% their owner is the application's own process.
-module(hornbeam_app).

-behaviour(application).

%% application
-export([start/2]).
-export([stop/1]).

-spec start(application:start_type(), term()) -> {ok, pid()} | {error, term()}.
start(_Type, _Args) ->
    %% Decoding from workers is `safe': the atoms they may send have to be there.
    _ = hornbeam_protocol:atoms(),
    case hornbeam_config:validate_node() of
        ok -> start_tree();
        {error, _} = Error -> Error
    end.

-spec stop(term()) -> ok.
stop(_State) ->
    ok = hornbeam_hangup:remove(),
    ok = hornbeam_hurry:remove(),
    hornbeam_tls_log:stop().

start_tree() ->
    ok = hornbeam_state:create_table(hornbeam_config:node_option(state_max_memory)),
    ok = hornbeam_functions:create_table(),
    ok = hornbeam_rpc:create_allowance(),
    ok = hornbeam_hook_registry:create_table(),
    ok = hornbeam_groups:create_table(),
    ok = hornbeam_fanout:create_tables(),
    ok = hornbeam_selection:create_table(),
    ok = hornbeam_servers_sup:create_table(),
    ok = hornbeam_hurry:install(),
    _ = hornbeam_config:node_option(reload_on_sighup) andalso hornbeam_hangup:install(),
    hornbeam_sup:start_link().
