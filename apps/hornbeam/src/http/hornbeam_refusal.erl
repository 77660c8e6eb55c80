%% SPDX-License-Identifier: Apache-2.0

%% @private What the server answers by itself, where the application does not.
-module(hornbeam_refusal).

%% API
-export([response/4]).
-export([ends_connection/1]).
-export([early/3]).

%% @doc The command for such an answer.
-spec response(Status :: 400..599, Text :: binary(), cowboy:http_headers(),
               hornbeam_request:request()) -> cowboy_stream:resp_command().
response(Status, Text, Headers, #{server := Server, method := Method}) ->
    {response, _, Defaults, Body} = hornbeam_response:error(Status, Text, Server),
    hornbeam_response:whole(Status, maps:merge(Defaults, Headers), Body, Method).

%% @doc Whether the request was at fault, so that what follows it is not to be trusted.
-spec ends_connection(Status :: 400..599) -> boolean().
ends_connection(Status) ->
    Status =:= 400 orelse Status =:= 408 orelse Status =:= 413 orelse Status =:= 414
        orelse Status =:= 431 orelse Status =:= 505.

%% @doc The answer in place of Cowboy's to what it could not make a request of.
-spec early(cowboy_stream:reason(), cowboy_stream:resp_command(), hornbeam_response:defaults()) ->
    cowboy_stream:resp_command().
early(Reason, {response, Status, Headers, _}, Server) ->
    {response, _, Defaults, Body} = hornbeam_response:error(Status, early_text(Reason), Server),
    {response, Status, maps:merge(Defaults, maps:remove(<<"content-length">>, Headers)), Body}.

early_text({_, _, Why}) when is_atom(Why) -> atom_to_binary(Why);
early_text(_) -> <<"the request could not be read">>.
